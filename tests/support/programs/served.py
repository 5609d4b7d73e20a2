"""A server in a process of its own, and the requests of the Open Inference Protocol."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER = "Inference-Header-Content-Length"
Arrays = Mapping[str, Any]


@dataclass
class Served:
    """A server that runs."""

    process: subprocess.Popen[str]
    http: int
    grpc: int | None
    told: list[dict[str, Any]] = field(default_factory=list)
    """Its lines, once it has ended."""

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, answer.read(), found
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        status, content, _ = self.ask("GET", path)
        assert status == 200, content
        return json.loads(content)

    def infer(self, model: str, inputs: Arrays, *, binary: bool = True, **more: Any) -> Outputs:
        """An answer. more: `parameters`, `outputs`."""
        body, headers = request_of(inputs, binary=binary, **more)
        status, content, told = self.ask("POST", f"/v2/models/{model}/infer", body, **headers)
        assert status == 200, content
        return outputs_of(content, told)

    def refused(self, model: str, inputs: Arrays, **more: Any) -> tuple[int, str]:
        """Status and message of a request that is not answered."""
        body, headers = request_of(inputs, **more)
        status, content, _ = self.ask("POST", f"/v2/models/{model}/infer", body, **headers)
        assert status != 200, content
        return status, json.loads(content)["error"]


Outputs = dict[str, Any]


@contextmanager
def served(*arguments: object, rpc: bool = True, **environment: str) -> Iterator[Served]:
    """A server at free ports of this machine; it must end well, and have failed at nothing."""
    command = [
        sys.executable, "-m", "ifmmin.runtime.server.cli", "--port", "0",
        "--grpc-port", "0" if rpc else "-1", "--backend", "onnxruntime-cpu",
        *map(str, arguments),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if '"serving"' in line:
            break
    else:
        raise AssertionError("".join(lines))
    told = json.loads(lines[-1])
    server = Served(process, told["http"], told["grpc"])
    try:
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            _, rest = process.communicate(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    server.told = [json.loads(line) for line in rest.splitlines()]
    assert process.returncode == 0, rest
    unwanted = [line for line in server.told if line["event"] not in ("stopping", "stopped")]
    assert unwanted == [], unwanted


def request_of(
    inputs: Arrays,
    *,
    binary: bool = True,
    parameters: Mapping[str, Any] | None = None,
    outputs: tuple[str, ...] = (),
) -> tuple[bytes, dict[str, str]]:
    """Body and headers."""
    told, contents = [], []
    for name, value in inputs.items():
        array = np.asarray(value)
        text = array.dtype.kind in "SUO"
        kind = "BYTES" if text else {"float32": "FP32", "int32": "INT32"}[str(array.dtype)]
        one: dict[str, Any] = {"name": name, "datatype": kind, "shape": list(array.shape)}
        if binary:
            contents.append(_raw(array) if text else array.tobytes())
            one["parameters"] = {"binary_data_size": len(contents[-1])}
        else:
            one["data"] = array.ravel().tolist()
        told.append(one)
    content: dict[str, Any] = {"inputs": told, "parameters": dict(parameters or {})}
    if outputs:
        content["outputs"] = [{"name": name} for name in outputs]
    if not binary:
        return json.dumps(content).encode(), {}
    content["parameters"]["binary_data_output"] = True
    header = json.dumps(content).encode()
    return header + b"".join(contents), {HEADER: str(len(header))}


def outputs_of(content: bytes, headers: Mapping[str, str]) -> Outputs:
    """Outputs by name, and the response's parameters as `parameters`."""
    length = headers.get(HEADER.lower())
    told = json.loads(content[: int(length)] if length else content)
    position, found = int(length or 0), {"parameters": told["parameters"]}
    for one in told["outputs"]:
        if length:
            size = one["parameters"]["binary_data_size"]
            raw = content[position : position + size]
            position += size
            array = (
                np.array([raw[4:]], object) if one["datatype"] == "BYTES"
                else np.frombuffer(raw, np.float32)
            )  # fmt: skip
        else:
            array = np.array(
                [value.encode() if isinstance(value, str) else value for value in one["data"]],
                object if one["datatype"] == "BYTES" else np.float32,
            )
        found[one["name"]] = array.reshape(one["shape"])
    return found


def _raw(array: NDArray[Any]) -> bytes:
    texts = [one if isinstance(one, bytes) else str(one).encode() for one in array.ravel()]
    return b"".join(len(one).to_bytes(4, "little") + one for one in texts)
