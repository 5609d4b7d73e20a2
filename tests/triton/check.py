"""Serve a repository by a real Triton core and ask every model; run by `make test-triton`.

    check.py REPOSITORY EXPECTED.npz

Triton and its client come from nvidia-pytriton's wheel, which has no backend for ONNX: the one in
Python beside this file stands in for it. On loopback alone; that server is old and is not one to
deploy.
"""

from __future__ import annotations

import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytriton
import tritonclient.grpc as client
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

HERE = Path(__file__).parent
SEQUENCES = 16
TIMEOUT = 20
"""Seconds for an answer."""


def free_port() -> int:
    """One of this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(repository: Path, folder: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    """Triton, with the backend that stands in."""
    site = Path(pytriton.__file__).parents[1]
    server = site / "pytriton" / "tritonserver"
    backends = folder / "backends"
    shutil.copytree(server / "backends" / "python", backends / "python")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, backends / "python")
    (backends / "onnxruntime").mkdir()
    shutil.copy(HERE / "onnxruntime_backend.py", backends / "onnxruntime" / "model.py")
    http, grpc, metrics = map(str, ports)
    return subprocess.Popen(
        [server / "bin" / "tritonserver", f"--backend-directory={backends}",
         f"--model-repository={repository}", "--http-address=127.0.0.1", f"--http-port={http}",
         "--grpc-address=127.0.0.1", f"--grpc-port={grpc}", "--metrics-address=127.0.0.1",
         f"--metrics-port={metrics}", "--log-verbose=0"],
        # Its Python takes the packages of the environment whose python3 comes first.
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
             "LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs")},
        stdout=(folder / "log").open("wb"), stderr=subprocess.STDOUT,
    )  # fmt: skip


def tensors(features: dict[str, Any], batched: bool = False, lengths: bool = False) -> list[Any]:
    """Inputs of a request."""
    arrays = {name: array[None] if batched else array for name, array in features.items()}
    if lengths:
        for name, array in features.items():
            arrays[f"{name}_lengths"] = np.array([[len(array)]], np.int64)
    made = []
    for name, array in arrays.items():
        kind = "INT64" if array.dtype == np.int64 else "FP32"
        one = client.InferInput(name, array.shape, kind)
        one.set_data_from_numpy(np.ascontiguousarray(array))
        made.append(one)
    return made


def check(repository: Path, expected: dict[str, Any], url: str) -> int:
    """Parity of every model; the number of answers compared."""
    asked = client.InferenceServerClient(url)
    compared = 0
    features = {m: expected[f"input/{m}"] for m in "avt" if f"input/{m}" in expected}
    for folder in sorted(repository.iterdir()):
        text = (folder / "config.pbtxt").read_text()
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert asked.is_model_ready(folder.name), folder.name
        if folder.name in ("emotion", "stream"):
            continue
        given = {m: features[m] for m in folder.name.split("_")}
        wanted = expected[f"logits/{folder.name}"]
        batched = config.max_batch_size > 0
        inputs = tensors(given, batched, batched)
        ask = partial(asked.infer, folder.name, client_timeout=TIMEOUT)
        with ThreadPoolExecutor(8) as pool:
            for found in pool.map(ask, [inputs] * 16):
                difference = np.abs(found.as_numpy("logits").ravel() - wanted).max()
                assert difference < 1e-4, (folder.name, difference)
                compared += 1
        found = asked.infer("emotion", tensors(given), client_timeout=TIMEOUT)
        assert np.abs(found.as_numpy("logits") - wanted).max() < 1e-4, folder.name
        shares = np.exp(wanted - wanted.max())
        assert np.abs(found.as_numpy("probabilities") - shares / shares.sum()).max() < 1e-4
        assert found.as_numpy("label")[0].decode() == str(expected["labels"][wanted.argmax()])
        compared += 1
    refused = 0
    for model, inputs in (("emotion", []), ("a", tensors({"a": np.zeros((3, 2), np.float32)}))):
        try:
            asked.infer(model, inputs, client_timeout=TIMEOUT)
        except client.InferenceServerException:
            refused += 1
    assert refused == 2
    if (repository / "stream").is_dir():
        compared += check_sequences(expected, url)
    return compared


def check_sequences(expected: dict[str, Any], url: str) -> int:
    """As many at a time as `SEQUENCES`, their steps mixed: each has the answers of a stream."""
    asked, answers = client.InferenceServerClient(url), queue.SimpleQueue[Any]()
    asked.start_stream(lambda result, error: answers.put((result, error)))
    steps = len(expected["stream/0/logits"])
    for step in range(steps):
        for sequence in range(SEQUENCES):
            given = {
                m: expected[f"stream/{sequence}/{m}"][step]
                for m in "avt"
                if f"stream/{sequence}/{m}" in expected
            }
            asked.async_stream_infer(
                "stream", tensors(given, batched=True), request_id=f"{sequence}.{step}",
                sequence_id=sequence + 1, sequence_start=step == 0, sequence_end=step == steps - 1,
            )  # fmt: skip
    for _ in range(steps * SEQUENCES):
        found, error = answers.get(timeout=30)
        assert error is None, error
        sequence, step = map(int, found.get_response().id.split("."))
        wanted = expected[f"stream/{sequence}/logits"][step]
        assert np.abs(found.as_numpy("logits")[0] - wanted).max() < 1e-4, (sequence, step)
    asked.stop_stream()
    return steps * SEQUENCES


def main(repository: Path, expected: Path) -> None:
    """Start, check, end."""
    ports = [free_port() for _ in range(3)]
    with tempfile.TemporaryDirectory() as name:
        server = start(repository, Path(name), ports)
        try:
            asked = client.InferenceServerClient(f"127.0.0.1:{ports[1]}")
            deadline = time.monotonic() + 90
            while True:
                try:
                    if asked.is_server_ready():
                        break
                except client.InferenceServerException:
                    pass
                if server.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"Triton does not start:\n{(Path(name) / 'log').read_text()}")
                time.sleep(0.2)
            compared = check(repository, dict(np.load(expected)), f"127.0.0.1:{ports[1]}")
        finally:
            server.terminate()
            try:
                server.wait(40)
            except subprocess.TimeoutExpired:
                server.kill()
    sys.stdout.write(f"{repository}: {compared} answers of Triton are the predictor's\n")


main(*map(Path, sys.argv[1:]))
