"""Load on a server: how many requests it answers, and what it keeps through a long mixture of them.

    python -m ifmmin.benchmarks.serving rates -b bundle
    python -m ifmmin.benchmarks.serving soak --minutes 10

Both start `ifmmin-serve` on this machine and share its processors with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ifmmin.runtime import Predictor, Recognizer
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.cli.app import BundleOption, command, entry_point, new_app, require_bundle
from ifmmin.runtime.console import log_line, print_table, write
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Modality

HEADER = "Inference-Header-Content-Length"
_FRAMES = {"a": 40, "v": 40, "t": 12}
_PIECE = 0.02
"""Seconds of sound in a message of a listener."""

app = new_app("Load on a server that is started here.")


@dataclass
class Serving:
    """A server that runs."""

    process: subprocess.Popen[str]
    port: int

    def resources(self) -> tuple[float, int, int]:
        """Resident MB, open descriptors, threads."""
        folder = Path("/proc") / str(self.process.pid)
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        resident = int(status["VmRSS"].split()[0]) / 1024
        return resident, sum(1 for _ in (folder / "fd").iterdir()), int(status["Threads"])


@contextmanager
def serving(*arguments: object) -> Iterator[Serving]:
    """A server at a free port of this machine."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ifmmin.runtime.server.cli", "--port", "0", "--grpc-port", "-1",
         "--backend", "onnxruntime-cpu", *map(str, arguments)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    told = ""
    for line in process.stderr:
        told = line
        if '"serving"' in line:
            break
    else:
        raise InputError(f"the server does not start: {told}")
    try:
        yield Serving(process, json.loads(told)["http"])
    finally:
        process.terminate()
        process.wait(60)
        process.stderr.close()


def request_bytes(
    model: str, features: dict[str, Any], *, binary: bool = True, **parameters: Any
) -> bytes:
    """A whole HTTP request for an answer."""
    contents, inputs = [], []
    for name, array in features.items():
        told: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": array.shape}
        if binary:
            contents.append(array.tobytes())
            told["parameters"] = {"binary_data_size": len(contents[-1])}
        else:
            told["data"] = array.ravel().tolist()
        inputs.append(told)
    header = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    extra = f"{HEADER}: {len(header)}\r\n" if binary else ""
    body = b"".join([header, *contents])
    return (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: 127.0.0.1\r\n{extra}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


class Connection:
    """One that stays open between requests."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._file: Any = None

    def ask(self, request: bytes) -> tuple[int, Any, bool]:
        """Status, JSON, and whether the server ends the connection."""
        if self._file is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), 30)
            self._file = self._socket.makefile("rb")
        self._socket.sendall(request)
        status = int(self._file.readline().split()[1])
        length, closes = 0, False
        while (line := self._file.readline().strip().lower()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name == b"content-length" else length
            closes = closes or (name == b"connection" and value.strip() == b"close")
        content = self._file.read(length)
        if closes:
            self.close()
        return status, json.loads(content) if content else None, closes

    def close(self) -> None:
        """End it."""
        if self._file is not None:
            self._file.close()
            self._socket.close()
            self._file = None


@dataclass
class Rate:
    """What a number of connections had."""

    per_second: float
    p50: float
    p99: float
    """Milliseconds."""
    errors: int


async def measure_rate(port: int, request: bytes, connections: int, seconds: float) -> Rate:
    """Answers a second, each connection asking again when it has its answer."""
    times: list[float] = []
    errors, ends = 0, time.perf_counter() + seconds

    async def ask() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < ends:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            errors += not head.startswith(b"HTTP/1.1 200")
            times.append(time.perf_counter() - started)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(connections)))
    p50, p99 = np.percentile(times, (50, 99)) * 1e3
    return Rate(len(times) / (time.perf_counter() - began), p50, p99, errors)


async def measure_listeners(
    port: int, sound: bytes, rate: int, listeners: int, seconds: float
) -> list[float]:
    """Milliseconds from the piece of sound at whose end an answer is due to that answer."""
    import websockets

    size = 2 * round(rate * _PIECE)
    pieces = [sound[first : first + size] for first in range(0, len(sound) - size, size)]
    times: list[float] = []

    async def listen(number: int) -> None:
        await asyncio.sleep(number * 0.25 / listeners)
        async with websockets.connect(f"ws://127.0.0.1:{port}/v1/listen") as socket:
            await socket.recv()
            await socket.send(json.dumps({"type": "start", "rate": rate, "window": 8}))
            sent: dict[float, float] = {}

            async def read() -> None:
                async for message in socket:
                    update = json.loads(message)
                    if not update.get("final"):
                        times.append(1e3 * (time.perf_counter() - sent[round(update["at"], 2)]))

            reading = asyncio.create_task(read())
            began = time.perf_counter()
            for count in range(round(seconds / _PIECE)):
                await asyncio.sleep(max(0.0, began + count * _PIECE - time.perf_counter()))
                sent[round((count + 1) * _PIECE, 2)] = time.perf_counter()
                await socket.send(pieces[count % len(pieces)])
            await socket.send('{"type": "stop"}')
            await reading

    await asyncio.gather(*(listen(number) for number in range(listeners)))
    return times


def _features(bundle: Bundle, pattern: str, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    specs = bundle.manifest.modalities
    return {
        m: rng.standard_normal((_FRAMES[m], specs[Modality.of(m)].dim)).astype(np.float32)
        for m in pattern.split("_")
    }


def _in_process(predictor: Predictor, features: dict[str, Any], seconds: float) -> float:
    predictor.predict(features)
    count, ends = 0, time.perf_counter() + seconds
    began = time.perf_counter()
    while time.perf_counter() < ends:
        predictor.predict(features)
        count += 1
    return count / (time.perf_counter() - began)


@command(app, "python -m ifmmin.benchmarks.serving rates -b bundle", name="rates")
def rates(
    bundle: BundleOption = None,
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 4.0,
    recording: Annotated[
        Path | None, typer.Option(metavar="WAV", help="Also listen to this, 25 and 50 at once.")
    ] = None,
) -> None:
    """Requests a second beside calls in one process, with binary tensors."""
    opened = Bundle(require_bundle(bundle))
    predictor = Predictor(opened.directory, backend="onnxruntime-cpu")
    rows = []
    with serving("-b", opened.directory) as server:
        for pattern in map(str, (predictor.patterns[0], predictor.patterns[-1])):
            features = _features(opened, pattern)
            alone = _in_process(predictor, features, seconds)
            request = request_bytes(pattern, features)
            for connections in (1, 8, 32):
                found = asyncio.run(measure_rate(server.port, request, connections, seconds))
                rows.append(
                    [pattern, str(connections), f"{found.per_second:.0f}", f"{alone:.0f}",
                     f"{found.per_second / alone:.2f}", f"{found.p50:.2f}", f"{found.p99:.2f}",
                     str(found.errors)]
                )  # fmt: skip
        print_table(
            ["pattern", "connections", "requests/s", "calls/s in process", "ratio", "p50 ms",
             "p99 ms", "errors"], rows,
        )  # fmt: skip
        if recording is not None:
            import soundfile

            samples, rate = soundfile.read(recording, dtype="int16", always_2d=True)
            listening = []
            for count in (25, 50):
                sound = samples[:, 0].tobytes()
                times = asyncio.run(measure_listeners(server.port, sound, rate, count, 2 * seconds))
                p50, p99 = np.percentile(times, (50, 99))
                listening.append([str(count), str(len(times)), f"{p50:.1f}", f"{p99:.1f}"])
            print_table(["listeners", "updates", "p50 ms", "p99 ms"], listening)


HOSTILE = (
    b"POST /v2/models/a/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n",
    b"POST /v2/models/a/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\n{x}",
    b"POST /v2/models/a/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 268435456\r\n\r\n",
    b"POST /v2/models/a/infer HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v2/models/a/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nInference-Header-Content-Length: 9\r\n"
    b"Content-Length: 2\r\n\r\n{}",
    b"GET /v2/models/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\n",
)
"""Each on a connection of its own, which is then left: none gets an answer of 200 or 500."""


@dataclass
class Outcome:
    """What came of a mixture of requests."""

    answered: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Answers that are not the predictor's, and whatever should not have happened."""
    resources: list[tuple[float, int, int]] = field(default_factory=list)
    """Resident MB, descriptors and threads, again and again."""


class Mixture:
    """Clients of all kinds at one server."""

    def __init__(self, bundle: Path, recordings: Sequence[Path]) -> None:
        self._bundle, self._recordings = Bundle(bundle), recordings
        predictor = Predictor(bundle, backend="onnxruntime-cpu")
        self._requests = []
        for pattern in map(str, predictor.patterns):
            for seed in range(3):
                features = _features(self._bundle, pattern, seed)
                right = predictor.predict(features).logits
                for model in (pattern, "emotion"):
                    request = request_bytes(model, features, binary=seed > 0)
                    self._requests.append((pattern, request, right))
        recognizer = Recognizer(predictor)
        self._spoken = [(path, recognizer.recognize(sound=path).label) for path in recordings]
        self.outcome = Outcome()
        self._ending = threading.Event()
        self._leaving = threading.Event()
        """Set when the server has been told to end: each client has one more answer, and goes."""

    def spoil(self) -> None:
        """Expect other answers, which must be seen."""
        self._requests = [(name, request, -right) for name, request, right in self._requests]

    def run(self, seconds: float, clients: int = 4, listeners: int = 3) -> Outcome:
        """All of it for some time, then SIGTERM under load."""
        with serving("-b", self._bundle.directory) as server:
            kinds: list[Callable[[Serving, int], None]] = [self._ask] * clients
            kinds += [self._listen] * (listeners if self._spoken else 0)
            kinds += [self._abandon, self._harm]
            threads = [
                threading.Thread(target=self._guarded, args=(kind, server, number))
                for number, kind in enumerate(kinds)
            ]
            for thread in threads:
                thread.start()
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                time.sleep(min(1.0, seconds / 20))
                self.outcome.resources.append(server.resources())
            self._ending.set()  # of all but those who ask
            for thread in threads[clients:]:
                thread.join(60)
            self._leaving.set()
            server.process.send_signal(signal.SIGTERM)
            for thread in threads[:clients]:
                thread.join(60)
            _, rest = server.process.communicate(timeout=60)
            failed = [line for line in rest.splitlines() if '"failed"' in line]
            self.outcome.wrong += [*failed, *self._unless(server.process.returncode == 0, "exit")]
        return self.outcome

    def _guarded(self, kind: Callable[[Serving, int], None], server: Serving, number: int) -> None:
        try:
            kind(server, number)
        except Exception as error:
            self.outcome.wrong.append(f"{kind.__name__}: {type(error).__name__}: {error}")

    def _unless(self, right: bool, what: str) -> list[str]:
        return [] if right else [what]

    def _ask(self, server: Serving, number: int) -> None:
        """Until the server says that it ends: then every request has had its answer."""
        rng = np.random.default_rng(number)
        connection, closes = Connection(server.port), False
        while not (closes and self._leaving.is_set()):
            pattern, request, right = self._requests[rng.integers(len(self._requests))]
            status, answer, closes = connection.ask(request)
            if status == 429:
                self.outcome.answered["429"] += 1
                continue
            logits = next(o["data"] for o in answer["outputs"] if o["name"] == "logits")
            if status != 200 or np.abs(np.array(logits) - right).max() > 1e-3:
                self.outcome.wrong.append(f"{pattern}: {status} {str(answer)[:200]}")
            self.outcome.answered[pattern] += 1
        connection.close()

    def _listen(self, server: Serving, number: int) -> None:
        import soundfile
        from websockets.sync.client import connect

        rng = np.random.default_rng(number)
        while not self._ending.is_set():
            path, label = self._spoken[rng.integers(len(self._spoken))]
            samples, rate = soundfile.read(path, dtype="int16")
            with connect(f"ws://127.0.0.1:{server.port}/v1/listen") as listening:
                listening.recv(20)
                listening.send(json.dumps({"type": "start", "rate": rate, "every": 60}))
                for first in range(0, len(samples), rate // 50):
                    listening.send(samples[first : first + rate // 50].tobytes())
                if rng.random() < 0.3:
                    continue  # goes away in the middle
                listening.send('{"type": "stop"}')
                found = json.loads(listening.recv(30))
            if found.get("label") != label:
                self.outcome.wrong.append(f"{path.name}: {found}")
            self.outcome.answered["listen"] += 1

    def _abandon(self, server: Serving, number: int) -> None:
        """Sequences that end, and as many that nobody ends."""
        letter = next(iter(self._bundle.manifest.modalities)).value
        features, sequence = _features(self._bundle, letter), 0
        connection = Connection(server.port)
        while not self._ending.is_set():
            sequence += 1
            for step in range(3):
                ends = step == 2 and sequence % 2 == 0
                request = request_bytes(
                    "stream", features, sequence_id=1 + sequence % 200, sequence_start=step == 0,
                    sequence_end=ends,
                )  # fmt: skip
                status, answer, _ = connection.ask(request)
                if status not in (200, 429):
                    self.outcome.wrong.append(f"stream: {status} {answer}")
                self.outcome.answered["stream"] += 1
            time.sleep(0.02)
        connection.close()

    def _harm(self, server: Serving, number: int) -> None:
        """About one in a hundred requests, each on a connection that is then left."""
        count = 0
        while not self._ending.is_set():
            count += 1
            with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
                connection.sendall(HOSTILE[count % len(HOSTILE)])
                connection.settimeout(0.2)
                with contextlib.suppress(TimeoutError, ConnectionError):
                    status = connection.recv(100).split(b" ")[1:2]
                    if status and status[0][:1] != b"4":
                        self.outcome.wrong.append(f"hostile {count % len(HOSTILE)}: {status}")
            self.outcome.answered["hostile"] += 1
            time.sleep(0.05)


def growth(resources: Sequence[tuple[float, int, int]]) -> tuple[float, float, float]:
    """Of each, how much the last third is above the middle one, by their means."""
    third = len(resources) // 3
    middle, last = np.array(resources[third : 2 * third]), np.array(resources[-third:])
    mb, files, threads = (last.mean(axis=0) - middle.mean(axis=0)).tolist()
    return mb, files, threads


@command(app, "python -m ifmmin.benchmarks.serving soak --minutes 10", name="soak")
def soak(
    recordings: Annotated[
        list[Path] | None, typer.Argument(metavar="WAV...", help="What listeners send.")
    ] = None,
    bundle: BundleOption = None,
    minutes: Annotated[float, typer.Option(help="How long.")] = 10.0,
) -> int:
    """Everything at once for some time, and SIGTERM at its end; exit code 1 for a wrong answer."""
    mixture = Mixture(require_bundle(bundle), recordings or ())
    outcome = mixture.run(60 * minutes)
    for what, count in sorted(outcome.answered.items()):
        write(f"{what:<8} {count}")
    mb, files, threads = growth(outcome.resources)
    write(
        f"at the end {outcome.resources[-1][0]:.0f} MB; last third over the middle one: "
        f"{mb:+.1f} MB, {files:+.1f} descriptors, {threads:+.1f} threads"
    )
    for line in outcome.wrong[:20]:
        log_line(f"error: {line}")
    return 1 if outcome.wrong else 0


main = entry_point(app, "python -m ifmmin.benchmarks.serving")

if __name__ == "__main__":
    sys.exit(main())
