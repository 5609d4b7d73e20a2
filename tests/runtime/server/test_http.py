"""The Open Inference Protocol over HTTP: names, answers, sequences, and who may ask."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import soundfile
from run_command import DIMS, noise
from served import Served, request_of, served

from ifmmin.runtime import Predictor, Recognizer
from ifmmin.runtime.modality import ALL_PATTERNS, Pattern

SOME = {m: noise(m) for m in "avt"}


@pytest.fixture(scope="module")
def exact(batches: Path) -> Predictor:
    return Predictor(batches, backend="onnxruntime-cpu")


def taken(pattern: Pattern | str) -> dict[str, Any]:
    return {m: SOME[m] for m in str(pattern).split("_")}


def test_models_and_what_they_take(small: Served) -> None:
    assert small.get("/v2")["name"] == "ifmmin"
    status, content, _ = small.ask("POST", "/v2/repository/index")
    names = [one["name"] for one in json.loads(content)]
    assert (status, names) == (200, [*map(str, ALL_PATTERNS), "emotion", "stream"])
    for name in names:
        told = small.get(f"/v2/models/{name}")
        config = small.get(f"/v2/models/{name}/versions/1/config")
        letters = name.split("_") if name not in ("emotion", "stream") else list("avt")
        wanted = [(m, "FP32", [-1, DIMS[m]]) for m in letters]
        found = [(i["name"], i["datatype"], i["shape"]) for i in told["inputs"]]
        assert found[: len(wanted)] == wanted
        assert [i["name"] for i in found_config(config)] == [i["name"] for i in told["inputs"]]
        assert ("sequence_batching" in config) == (name == "stream")
        assert small.ask("GET", f"/v2/models/{name}/ready")[0] == 200
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert small.ask("GET", path)[0] == 200


def found_config(config: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = config["input"]
    return found


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_answers_are_the_predictor_s(
    small: Served, exact: Predictor, pattern: Pattern, binary: bool
) -> None:
    wanted = exact.predict(taken(pattern))
    for model in (str(pattern), "emotion"):
        found = small.infer(model, taken(pattern), binary=binary)
        assert np.abs(found["logits"] - wanted.logits).max() < 1e-5
        assert np.abs(found["probabilities"] - wanted.probabilities).max() < 1e-6
        assert found["label"].tolist() == [wanted.label.encode()]
        assert found["parameters"]["pattern"] == str(pattern)
    only = small.infer(str(pattern), taken(pattern), binary=binary, outputs=("label",))
    assert set(only) == {"label", "parameters"}


def test_requests_at_the_same_time_are_answered_as_one_alone(
    small: Served, exact: Predictor
) -> None:
    rng = np.random.default_rng(3)
    many = [{m: noise(m, int(rng.integers(3, 30)), seed) for m in "avt"} for seed in range(64)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda one: small.infer("a_v_t", one)["logits"], many))
    for one, logits in zip(many, found, strict=True):
        assert np.abs(logits - exact.predict(one).logits).max() < 1e-4
    text = small.ask("GET", "/metrics")[1].decode()
    lines = [line.split() for line in text.splitlines() if line.startswith("ifmmin_batch_size_")]
    batches = {name: float(value) for name, value in lines}
    assert batches["ifmmin_batch_size_sum"] > batches["ifmmin_batch_size_count"], "none together"
    assert 'ifmmin_requests_total{code="200",model="a_v_t",transport="http"}' in text


def test_sequences_are_streams(small: Served, exact: Predictor) -> None:
    stream, frames = exact.stream(), {"a": noise("a", 4)}
    for number in range(5):
        frames = {m: noise(m, 4, number) for m in ("a", "v", "t")[: 1 + number % 3]}
        stream.push(frames)
        found = small.infer(
            "stream", frames,
            parameters={"sequence_id": 7, "sequence_start": number == 0,
                        "sequence_end": number == 4},
        )  # fmt: skip
        assert np.abs(found["logits"] - stream.predict().logits).max() < 1e-5
    status, message = small.refused("stream", frames, parameters={"sequence_id": 7})
    assert (status, message.startswith("sequence 7 is not open")) == (400, True)


def test_a_snapshot_moves_a_sequence_to_another_server(
    small: Served, batches: Path, exact: Predictor
) -> None:
    first, then = {"a": noise("a", 9, 1)}, {"t": noise("t", 3, 2)}
    begin = {"sequence_id": "one", "sequence_start": True}
    kept = small.infer("stream", first, parameters=begin, outputs=("snapshot",))["snapshot"]
    stream = exact.stream()
    stream.push(first)
    stream.push(then)
    with served("-b", batches, rpc=False) as other:
        found = other.infer("stream", {**then, "snapshot": kept}, parameters=begin)
        assert np.abs(found["logits"] - stream.predict().logits).max() < 1e-5
        damaged = np.array([kept[0][:-1] + bytes([kept[0][-1] ^ 1])], object)
        status, message = other.refused("stream", {"snapshot": damaged}, parameters=begin)
        assert (status, "snapshot" in message) == (400, True)


def test_sound_and_words(speech: Served, root: Path) -> None:
    samples, rate = soundfile.read(root / "examples" / "recordings" / "sad.wav", dtype="float32")
    exact = Recognizer(backend="onnxruntime-cpu")
    told: dict[str, Any] = {
        "sound": {"samples": samples, "rate": np.array([rate], np.int32)},
        "text": {"text": np.array(["what a nice surprise"])},
    }
    wanted: dict[str, Any] = {"sound": (samples, rate), "text": "what a nice surprise"}
    for names in (("sound",), ("text",), ("sound", "text")):
        found = speech.infer("speech", {k: v for name in names for k, v in told[name].items()})
        answer = exact.recognize(**{name: wanted[name] for name in names})
        assert np.abs(found["logits"] - answer.logits).max() < 1e-4
        assert found["parameters"]["pattern"] == str(answer.pattern)
    for inputs, message in (
        ({}, "no modality is present"),
        ({"samples": np.zeros(16000, np.float32)}, "no speech was found"),
        ({"rate": np.array([8000], np.int32)}, "a rate without samples"),
        ({"samples": samples, "rate": np.array([-1], np.int32)}, "rate"),
        ({"text": np.array([b"\xff"], object)}, "not UTF-8"),
        ({"text": np.array(["x" * 100_001])}, "at most 100000"),
    ):
        status, said = speech.refused("speech", inputs)
        assert message in said
        assert status in (400, 413)


def test_what_is_not_there(small: Served) -> None:
    for path, status in (
        ("/v2/models/x", 404), ("/v2/models/a/versions/2", 404), ("/nothing", 404),
        ("/v2/models/x/ready", 404), ("/page/../cli.py", 404), ("/%2e%2e/cli.py", 404),
    ):  # fmt: skip
        found, content, _ = small.ask("GET", path)
        assert (found, "error" in json.loads(content)) == (status, True)
    assert small.ask("DELETE", "/v2")[0] == 405
    status, message = small.refused("x", SOME)
    assert (status, "wanted one of a, v, t" in message) == (404, True)


def test_who_may_ask(batches: Path) -> None:
    allowed = "https://example.org"
    with served(
        "-b", batches, "--allow-origin", allowed, rpc=False, IFMMIN_TOKEN="secret"
    ) as server:  # fmt: skip
        path, own = "/v2/models/a", f"http://127.0.0.1:{server.http}"
        bearer = {"Authorization": "Bearer secret"}
        for headers, status in (
            ({}, 401), ({"Authorization": "Bearer secreT"}, 401),
            ({"Authorization": "secret"}, 401),
            ({"Authorization": "Bearer \xe9"}, 401), (bearer, 200),
            ({**bearer, "Origin": own}, 200), ({**bearer, "Origin": allowed}, 200),
            ({**bearer, "Origin": "https://example.com"}, 403), ({**bearer, "Origin": "null"}, 403),
            ({**bearer, "Host": "evil.example"}, 403), ({**bearer, "Host": ""}, 403),
            ({**bearer, "Host": "localhost:1"}, 200),
        ):  # fmt: skip
            assert server.ask("GET", path, None, **headers)[0] == status, headers
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        assert server.ask("GET", "/metrics")[0] == 401
        answer = server.ask("GET", path, None, **bearer, Origin=allowed)[2]
        assert answer["access-control-allow-origin"] == allowed


def test_what_was_accepted_is_answered_when_the_server_ends(batches: Path) -> None:
    """Under load; each answer says that the connection ends, so that clients go elsewhere."""
    body, headers = request_of(SOME)
    outcomes: list[object] = []
    with served("-b", batches, rpc=False) as server:

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=30)
            leave = False
            while not leave:
                connection.request("POST", "/v2/models/a_v_t/infer", body, headers)
                answer = connection.getresponse()
                answer.read()
                outcomes.append(answer.status)
                leave = answer.getheader("connection") == "close"

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        ready = 200
        while ready == 200:
            ready = server.ask("GET", "/v2/health/ready")[0]
        for thread in threads:
            thread.join()
    assert ready == 503
    assert len(outcomes) > 20
    assert set(outcomes) == {200}
    assert [line["event"] for line in server.told] == ["stopping", "stopped"]


def test_tls(batches: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes a certificate, is not installed")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    with served("-b", batches, "--tls-cert", certificate, "--tls-key", key) as server:
        trusting = ssl.create_default_context(cafile=str(certificate))
        secure = http.client.HTTPSConnection("localhost", server.http, context=trusting, timeout=20)
        secure.request("GET", "/v2")
        assert json.loads(secure.getresponse().read())["name"] == "ifmmin"
        secure.close()
        with pytest.raises(OSError, match=r"closed|reset|EOF|wrong|disconnect|HTTP|aborted|Remote"):
            server.ask("GET", "/v2")
        own = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(f"localhost:{server.grpc}", own) as channel:
            grpc.channel_ready_future(channel).result(timeout=20)


def test_mistakes_of_the_command_are_one_line(batches: Path, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, said in (
            (("--tls-cert", tmp_path / "cert.pem"), "give both, or none"),
            (("--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "no"), "--tls"),
            (("--port", port), "cannot be listened at"),
            (("--port", 0, "--grpc-port", port), "cannot be listened at for gRPC"),
            (("--host", "no.such.host.invalid", "--token", "x"), "cannot be listened at"),
            (("--workers", 0), "wanted 1 to 256"), (("--batch-delay", -1), "wanted 0 to 1000"),
            (("--allow-origin", "example.org"), "such as https://example.org"),
            (("--token", ""), "printable ASCII"), (("--backend", "none"), "none"),
            (("-b", tmp_path), "manifest.json"),
        ):  # fmt: skip
            given = () if "-b" in arguments else ("-b", batches)
            ran = subprocess.run(
                [sys.executable, "-m", "ifmmin.runtime.server.cli",
                 *map(str, (*given, *arguments))],
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1), ran.stderr
            assert said in ran.stderr
