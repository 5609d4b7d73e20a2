"""Listening over a WebSocket: the answers of a stream, and one line for every mistake."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from run_command import noise
from served import Served, served
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from ifmmin.runtime import Predictor, Recognizer

EMOTIONS = ("angry", "happy", "neutral", "sad")


@contextmanager
def listener(server: Served, path: str = "", **more: Any) -> Iterator[ClientConnection]:
    """A connection, after its first message."""
    with connect(f"ws://127.0.0.1:{server.http}/v1/listen{path}", **more) as socket:
        assert json.loads(socket.recv(10))["type"] == "ready"
        yield socket


def ask(socket: ClientConnection, kind: str, **fields: Any) -> dict[str, Any]:
    """The next message after one of ours."""
    socket.send(json.dumps({"type": kind, **fields}))
    answer: dict[str, Any] = json.loads(socket.recv(20))
    return answer


def heard(socket: ClientConnection, samples: Any, rate: int, piece: float = 0.02) -> list[Any]:
    """All updates of a recording, the last one at its end."""
    found: list[Any] = []

    def read() -> None:
        while not (found and found[-1].get("final")):
            found.append(json.loads(socket.recv(30)))

    reader = threading.Thread(target=read)
    reader.start()
    step = round(rate * piece)
    for first in range(0, len(samples), step):
        socket.send(samples[first : first + step].astype("<i2").tobytes())
    socket.send('{"type": "stop"}')
    reader.join(60)
    assert not reader.is_alive()
    return found


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(backend="onnxruntime-cpu")


@pytest.mark.parametrize("name", EMOTIONS)
@pytest.mark.parametrize("rate", [16000, 44100])
def test_pieces_of_20_ms_end_with_the_answer_of_a_stream(
    speech: Served, recognizer: Recognizer, root: Path, name: str, rate: int
) -> None:
    samples, own = soundfile.read(root / "examples" / "recordings" / f"{name}.wav", dtype="int16")
    if rate != own:
        at = np.arange(0, len(samples) - 1, own / rate)
        samples = np.interp(at, np.arange(len(samples)), samples).astype(np.int16)
    stream = recognizer.stream()
    stream.push_sound(samples, rate)
    wanted = stream.predict()
    with listener(speech) as socket:
        socket.send(json.dumps({"type": "start", "rate": rate, "every": 0.5}))
        found = heard(socket, samples, rate)
    last = found[-1]
    shares = [last["probabilities"][label] for label in recognizer.labels]
    assert np.abs(np.array(shares) - wanted.probabilities).max() < 1e-4
    assert (last["label"], last["pattern"]) == (wanted.label, "a") == (name, "a")
    seconds = len(samples) / rate
    assert last["at"] == pytest.approx(seconds, abs=1e-3)
    assert len(found) == int(seconds / 0.5 + 1e-9) + 1
    assert all(one["latency_ms"] >= 0 for one in found)


def test_words_and_what_is_left_out(speech: Served, recognizer: Recognizer, root: Path) -> None:
    samples, rate = soundfile.read(root / "examples" / "recordings" / "sad.wav", dtype="int16")
    with listener(speech) as socket:
        nothing = ask(socket, "predict")
        assert (nothing["pattern"], nothing["label"]) == (None, None)
        assert "no modality is present" in nothing["reason"]
        socket.send(json.dumps({"type": "start", "every": 60, "min_quality": {"a": 0.5}}))
        socket.send(samples.tobytes())
        assert ask(socket, "predict")["pattern"] == "a"
        both = ask(socket, "text", text="what a nice surprise")
        assert both["pattern"] == "a_t"
        stream = recognizer.stream()
        stream.push_sound(samples, rate)
        stream.set_text("what a nice surprise")
        wanted = stream.predict().to_dict()["probabilities"]
        assert both["probabilities"] == pytest.approx(wanted, abs=1e-4)
        dropped = ask(socket, "drop", modality="a")
        assert (dropped["pattern"], "drop" in dropped["absent"]["a"]) == ("t", True)
        assert ask(socket, "restore", modality="a")["pattern"] == "a_t"
        assert ask(socket, "quality", modality="a", quality=0.2)["pattern"] == "t"
        assert ask(socket, "restore", modality="a")["pattern"] == "t", "it is still poor"
        assert ask(socket, "quality", modality="a", quality=0.9)["pattern"] == "a_t"
        assert ask(socket, "text", text=None)["pattern"] == "a"
        assert ask(socket, "clear", modality="a")["pattern"] is None
        socket.send(json.dumps({"type": "reset"}))
        assert ask(socket, "predict")["at"] == 0


def test_a_snapshot_goes_on_in_another_connection(speech: Served, root: Path) -> None:
    samples, _ = soundfile.read(root / "examples" / "recordings" / "happy.wav", dtype="int16")
    half = len(samples) // 2
    with listener(speech) as socket:
        socket.send(samples[:half].tobytes())
        kept = json.loads(json.dumps(ask(socket, "snapshot")))
        while kept["type"] != "snapshot":
            kept = json.loads(socket.recv(10))
        whole = heard(socket, samples[half:], 16000)[-1]
    with listener(speech) as socket:
        assert ask(socket, "resume", snapshot=kept["snapshot"])["type"] == "update"
        again = heard(socket, samples[half:], 16000)[-1]
        assert again["probabilities"] == pytest.approx(whole["probabilities"], abs=1e-5)
    with listener(speech) as socket:
        damaged = base64.b64encode(b"x" + base64.b64decode(kept["snapshot"])).decode()
        assert ask(socket, "resume", snapshot=damaged)["type"] == "error"


def test_features_of_a_bundle_without_front_ends(small: Served, batches: Path) -> None:
    stream = Predictor(batches, backend="onnxruntime-cpu").stream()
    found: dict[str, Any] = {}
    with listener(small) as socket:
        for modality in "avt":
            frames = noise(modality, 5)
            stream.push({modality: frames})
            found = ask(socket, "features", modality=modality, frames=frames.tolist())
        wanted = stream.predict().to_dict()["probabilities"]
        assert found["probabilities"] == pytest.approx(wanted, abs=1e-5)
        socket.send(b"\0\0")
        assert "takes no sound" in json.loads(socket.recv(10))["message"]
        assert "takes no text" in ask(socket, "text", text="x")["message"]
        assert "takes no CSV" in ask(socket, "face", csv="x")["message"]


WRONG = [
    "", "x", "[]", "{}", '{"type": "x"}', '{"type": "text"}', '{"type": "text", "text": 3}',
    '{"type": "stop", "x": 1}', "[" * 100_000, '{"type": "drop", "modality": "x"}',
    '{"type": "drop", "modality": "v"}', '{"type": "start", "rate": -1}',
    '{"type": "start", "channels": 0}', '{"type": "start", "every": 1e-9}',
    '{"type": "start", "window": -1}', '{"type": "start", "min_quality": {"b": 1}}',
    '{"type": "quality", "modality": "a", "quality": 1}', '{"type": "resume", "snapshot": "x"}',
    '{"type": "features", "modality": "t", "frames": [[1e40]]}',
    '{"type": "features", "modality": "t", "frames": [[1], [1, 2]]}',
]  # fmt: skip


def test_mistakes_are_told_and_the_stream_goes_on(speech: Served) -> None:
    for first in range(0, len(WRONG), 7):
        with listener(speech) as socket:
            ask(socket, "text", text="what a nice surprise")
            for message in WRONG[first : first + 7]:
                socket.send(message)
                answer = json.loads(socket.recv(10))
                assert answer["type"] == "error", message
                assert "\n" not in answer["message"]
            socket.send(b"\0")
            assert "multiple of 2" in json.loads(socket.recv(10))["message"]
            assert ask(socket, "predict")["label"] == "happy"


def closed_after(server: Served, messages: list[str | bytes]) -> int | None:
    """The code by which the server closes."""
    with listener(server) as socket:
        try:
            for message in messages:
                socket.send(message)
                socket.recv(10)
        except ConnectionClosed as error:
            return error.rcvd.code if error.rcvd else None
    return None


def test_who_does_nothing_but_mistakes_or_sends_too_much_is_let_go(speech: Served) -> None:
    assert closed_after(speech, ["x"] * 40) == 1008
    assert closed_after(speech, [bytes((1 << 20) + 2)]) == 1009
    deadline = time.monotonic() + 10
    while b"ifmmin_listeners_active 0.0" not in speech.ask("GET", "/metrics")[1]:
        assert time.monotonic() < deadline, "a listener is still counted"


def test_origins_and_tokens(batches: Path) -> None:
    with served("-b", batches, "--token", "secret", rpc=False) as server:
        own = f"http://127.0.0.1:{server.http}"
        with listener(server, "?token=secret", origin=own):
            pass
        for path, origin in (("", own), ("?token=no", own), ("?token=secret", "http://x.example")):
            with pytest.raises(InvalidStatus) as caught, listener(server, path, origin=origin):
                pass
            assert caught.value.response.status_code == 403


def test_who_listens_is_told_that_the_server_ends() -> None:
    with served(rpc=False) as server, listener(server) as socket:
        ask(socket, "text", text="what a nice surprise")
        server.process.send_signal(signal.SIGTERM)
        last = json.loads(socket.recv(10))
        assert (last["final"], last["label"]) == (True, "happy")
        with pytest.raises(ConnectionClosed, match="1001"):
            socket.recv(10)


def test_the_client_in_the_examples(speech: Served, root: Path) -> None:
    ran = subprocess.run(
        [sys.executable, root / "examples" / "listen_client.py",
         root / "examples" / "recordings" / "angry.wav", f"ws://127.0.0.1:{speech.http}/v1/listen"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1].split()[2] == "angry"
