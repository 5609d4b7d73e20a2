"""Hostile requests: a 4xx with a message or a clean close, never a 500, never a hang."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_command import noise
from served import HEADER, Served, served
from websockets.sync.client import connect

PATH = "/v2/models/a/infer"
ONE: dict[str, Any] = {"name": "a", "datatype": "FP32", "shape": [2, 5], "data": [0.0] * 10}


def body(**changes: Any) -> bytes:
    return json.dumps({"inputs": [ONE | changes]}).encode()


WRONG: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{",
    "a list": b"[]",
    "no inputs": b"{}",
    "inputs of nothing": b'{"inputs": []}',
    "nested": b"[" * 200_000,
    "nested inputs": b'{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": '
    + b"[" * 50_000 + b"]" * 50_000 + b"}]}",
    "data of another shape": body(shape=[3, 5]),
    "ragged": body(data=[[0.0] * 5, [0.0]]),
    "no frames": body(shape=[0, 5], data=[]),
    "NaN": body(data=[float("nan")] * 10),
    "1e40": body(data=[1e40] * 10),
    "booleans": body(data=[True] * 10),
    "texts": body(data=["0"] * 10),
    "a batch of none": body(shape=[0, 2, 5], data=[]),
    "a batch": body(shape=[1, 2, 5]),
    "negative": body(shape=[-1, 5]),
    "negative twice": body(shape=[-2, -5]),
    "another width": body(shape=[5, 2]),
    "another datatype": body(datatype="FP64"),
    "no such datatype": body(datatype="float"),
    "another name": body(name="b"),
    "a number for a name": body(name=1),
    "twice": json.dumps({"inputs": [ONE, ONE]}).encode(),
    "too many frames": body(shape=[20_001, 5], data=[0.0] * 100_005),
    "bytes that are not there": body(data=None, parameters={"binary_data_size": 40}),
    "an output that is not there": json.dumps(
        {"inputs": [ONE], "outputs": [{"name": "x"}]}).encode(),
    "latin-1": '{"inputs": [{"name": "\xe9"}]}'.encode("latin-1"),
}  # fmt: skip


def refused(server: Served, content: bytes, **headers: str) -> str:
    status, answer, _ = server.ask("POST", PATH, content, **headers)
    assert 400 <= status < 500, answer
    message: str = json.loads(answer)["error"]
    assert message
    assert "\n" not in message
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("name", WRONG)
def test_bodies(small: Served, name: str) -> None:
    refused(small, WRONG[name])


def test_bytes_after_the_json(small: Served) -> None:
    whole = np.zeros((2, 5), np.float32)
    header = body(data=None, parameters={"binary_data_size": 40})
    right = {HEADER: str(len(header))}
    assert small.ask("POST", PATH, header + whole.tobytes(), **right)[0] == 200
    for content in (whole.tobytes()[:-1], whole.tobytes() + b"0", b"", (whole * np.nan).tobytes(),
                    np.full((2, 5), np.inf, np.float32).tobytes()):  # fmt: skip
        refused(small, header + content, **right)
    for length in ("-1", "1e1", "999999999999999999999", str(len(header) + 41), "0", "", "x"):
        refused(small, header + whole.tobytes(), **{HEADER: length})
    refused(small, header, **{"Content-Encoding": "gzip"})


def test_sequences(small: Served) -> None:
    frames = {"a": noise("a", 3)}
    for parameters in ({}, {"sequence_id": 0}, {"sequence_id": True}, {"sequence_id": 1.5},
                       {"sequence_id": None}, {"sequence_id": "x" * 300}, {"sequence_id": [1]},
                       {"sequence_id": 3}):  # fmt: skip
        status, message = small.refused("stream", frames, parameters=parameters)
        assert (status, "sequence" in message) == (400, True)
    nothing = small.refused("stream", {}, parameters={"sequence_id": 9, "sequence_start": True})
    assert nothing[0] == 400
    kept = {"snapshot": np.array([b"x"], object)}
    for start in (True, False):
        parameters = {"sequence_id": 10, "sequence_start": start}
        assert small.refused("stream", kept, parameters=parameters)[0] == 400


def test_more_than_is_taken_is_not_read(small: Served) -> None:
    """Declared, and sent without end."""
    before = _resident(small)
    for declared in (True, False):
        with socket.create_connection(("127.0.0.1", small.http), 20) as connection:
            how = b"Content-Length: 268435456" if declared else b"Transfer-Encoding: chunked"
            connection.sendall(
                f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n".encode() + how + b"\r\n\r\n"
            )
            answer = b""
            try:
                for _ in range(256):
                    connection.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
            except ConnectionError:
                pass
            connection.settimeout(10)
            try:
                answer = connection.recv(1000)
            except ConnectionError:
                continue  # closed before all of it was sent
            assert answer.startswith(b"HTTP/1.1 413")
    assert _resident(small) - before < 150
    assert small.ask("POST", PATH, body())[0] == 200


def _resident(server: Served) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


RAW = {
    "not HTTP": b"\x16\x03\x01\x02\x00\x01",
    "no such method": b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a header without end": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000,
    "headers without end": b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 40_000,
    "two lengths": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\nxx",
    "a length that is none": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "length and chunks": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a long path": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("name", RAW)
def test_what_is_hardly_http_ends(small: Served, name: str) -> None:
    with socket.create_connection(("127.0.0.1", small.http), 20) as connection:
        connection.settimeout(15)
        try:
            connection.sendall(RAW[name])
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        except OSError:
            return  # closed before all of it was sent
    assert answer == b"" or answer[9:10] == b"4"


@pytest.fixture
def many_files() -> Iterator[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, max(soft, 4096))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_that_say_nothing_and_those_that_say_little(
    batches: Path, many_files: int
) -> None:
    """Half of the descriptors that a server may have; others are still answered."""
    with served("-b", batches, rpc=False) as server:
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        may = int(limits.split("Max open files")[1].split()[0])
        count = min(may // 2, many_files - 200, 2000)
        idle = [socket.create_connection(("127.0.0.1", server.http), 20) for _ in range(count)]
        for number, connection in enumerate(idle):
            if number % 2:
                connection.sendall(b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: loc")
        assert server.ask("POST", PATH, body())[0] == 200
        deadline = time.monotonic() + 40
        while _open_files(server) > 150:
            idle[1].send(b"x") if _is_open(idle[1]) else None
            assert time.monotonic() < deadline, "who says nothing is kept"
            time.sleep(0.3)
        assert server.ask("POST", PATH, body())[0] == 200
        for connection in idle:
            connection.close()


def _open_files(server: Served) -> int:
    return sum(1 for _ in Path(f"/proc/{server.process.pid}/fd").iterdir())


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_websockets_that_flood_or_send_halves(speech: Served) -> None:
    url = f"ws://127.0.0.1:{speech.http}/v1/listen"
    before = _resident(speech)
    with connect(url) as flood:
        flood.recv(10)
        for _ in range(100):
            flood.send(bytes(64_000))  # 200 s of silence, as fast as it is taken
    upgrade = (
        "GET /v1/listen HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    for frame in (b"\x82\xfe", b"\x02\x85abcdhello", b"\x80\x80abcd", b"\xff\xff", b"\x82\x05hello",
                  b"\x82\xff" + b"\x7f" * 8 + b"abcd"):  # fmt: skip
        with socket.create_connection(("127.0.0.1", speech.http), 10) as half:
            half.sendall(upgrade.encode())
            assert half.recv(2000).startswith(b"HTTP/1.1 101")
            half.sendall(frame)
    deadline = time.monotonic() + 20
    while b"ifmmin_listeners_active 0.0" not in speech.ask("GET", "/metrics")[1]:
        assert time.monotonic() < deadline, "a listener that went is still counted"
        time.sleep(0.1)
    assert _resident(speech) - before < 150


def test_the_description_is_true(small: Served) -> None:
    """schemathesis asks what /openapi.json allows, and what it does not."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{small.http}/openapi.json")
    checked = 0
    for operation in schema.get_all_operations():
        made = operation.ok().as_strategy()

        @settings(
            max_examples=25, deadline=None, derandomize=True, database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            phases=[Phase.generate],
        )  # fmt: skip
        @given(case=made)
        def ask(case: Any) -> None:
            response = case.call()
            # That shape and data, or name and model, fit is more than a schema can say.
            case.validate_response(response, excluded_checks=[positive_data_acceptance])
            assert response.status_code < 500

        ask()
        checked += 1
    assert checked == 8
