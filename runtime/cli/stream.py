"""Session of `ifmmin-run --stream`: events in, an answer out after each.

Reads standard input or a file as events arrive, keeps snapshots, ends by a signal.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from ..console import log_line, write
from ..errors import IfmminError, InputError
from ..files import atomic_file, line_limit_bytes, read_regular, require_writable_file
from ..predictor import Predictor
from ..recognizer import RecognizerStream
from ..stream.options import Smoothing, StreamOptions
from ..stream.stream import Stream
from .app import end_by_signal
from .events import Event, EventProcessor, RealTime, Sink, Tick, UpdateLines, read_event
from .options import SessionOptions, numbers_by_modality
from .readers import numbered, readable, standard_input
from .run import RunOptions, Tally
from .writers import LAYOUT_OF, saved_lines


def stream_options(options: SessionOptions) -> StreamOptions:
    """What the stream is told; InputError for values that are out of range."""
    started = time.monotonic()
    return StreamOptions(
        window=options.window,
        hop=options.hop,
        stale_after=numbers_by_modality("--stale-after", options.stale_after),
        late=options.late or "refuse",
        clock=(lambda: time.monotonic() - started) if options.clock else None,
        smoothing=_smoothing(options),
    )


def _smoothing(options: SessionOptions) -> Smoothing | None:
    given = {"half_life": options.smooth, "margin": options.margin, "patience": options.patience}
    told: dict[str, Any] = {name: x for name, x in given.items() if x is not None}
    return Smoothing(**told) if told else None


STDIN = "-"
_CHUNK_BYTES = 1 << 16


@contextmanager
def opened(reader: str) -> Iterator[BinaryIO]:
    """The bytes of a path, or of standard input for `-`; InputError where there are none."""
    if reader == STDIN:
        yield standard_input()
        return
    if not Path(reader).exists():
        raise InputError(f"no input at {reader}; give a file, or - for standard input")
    with ExitStack() as stack:
        with readable(reader):
            file = stack.enter_context(Path(reader).open("rb"))  # a pipe is waited for
        yield file


def arriving(
    file: BinaryIO, reader: str, every: float | None = None
) -> Iterator[tuple[int, bytes] | None]:
    """Numbered lines, each handed on as soon as it is there; blank ones are counted only.

    every: seconds of silence after each of which None comes; None: silence is waited out. Raises
    InputError where the source breaks off.
    """
    with readable(reader):
        if every is None:
            yield from numbered(file)
        else:
            yield from _with_silences(file.fileno(), every)


def _with_silences(descriptor: int, every: float) -> Iterator[tuple[int, bytes] | None]:
    number = 0
    for line in _lines(descriptor, every):
        if line is None:
            yield None
            continue
        number += 1
        if line.strip():
            yield number, line


def _lines(descriptor: int, every: float) -> Iterator[bytes | None]:
    """Lines by way of the descriptor: a buffered file cannot say whether something is there."""
    begun, most = bytearray(), line_limit_bytes() + 1
    while True:
        if not select.select([descriptor], [], [], every)[0]:
            yield None
            continue
        chunk = os.read(descriptor, _CHUNK_BYTES)
        begun += chunk
        del begun[most : len(begun) - len(chunk)]  # of a line that is too long its rest
        if chunk and b"\n" not in chunk:
            continue
        *whole, rest = bytes(begun).split(b"\n")
        yield from whole
        begun = bytearray(rest)
        if not chunk:
            # What stands behind the last line's end, if anything does.
            if rest:
                yield rest
            return


class Interrupts:
    """Delivers SIGINT as KeyboardInterrupt, SIGTERM and SIGHUP as SystemExit while the block lasts.

    Within `held` they wait for its end: an event is heard and answered, or it is not. Signals that
    are ignored, as those of a background job, stay so. Outside of the main thread, where Python
    delivers none, this does nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._holding = False
        self._waiting: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._arrive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait for the end of the block."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            number, self._waiting = self._waiting, None
            if number is not None:
                end_by_signal(number)

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        if self._holding:
            self._waiting = number
        else:
            end_by_signal(number)


@contextmanager
def kept(stream: Stream | RecognizerStream, path: Path) -> Iterator[None]:
    """Go on from the snapshot at `path` where there is one, and write one there at the end.

    The end is also Ctrl-C, the request to end, or that nobody reads the answers any more: a stream
    is whole between events. After any other error what stood at `path` is untouched. Raises
    InputError where it is no snapshot of such a stream.
    """
    if path.exists():
        with readable(path):
            content = read_regular(path, InputError)
        try:
            stream.resume(content)
        except InputError as error:
            raise InputError(f"{path}: {error}; or name another file to begin anew") from error
    try:
        yield
    except (KeyboardInterrupt, SystemExit, BrokenPipeError):
        _write(stream, path)
        raise
    _write(stream, path)


def _write(stream: Stream | RecognizerStream, path: Path) -> None:
    content = stream.snapshot()
    with atomic_file(path) as part:
        part.write_bytes(content)


EXIT_SOME_FAILED = 1


def run_stream(
    source: str, options: SessionOptions, rules: RunOptions, open_predictor: Callable[[], Predictor]
) -> int:
    """Answer a session; returns the exit code: 0, or 1 when some events have no answer.

    source: a path, or `-`. Mistakes in the options are told before the predictor is opened.
    """
    told = stream_options(options)
    wait = RealTime() if options.replay == "real" else _at_once
    _require_places(options, rules)
    with ExitStack() as stack:
        file = stack.enter_context(opened(source))
        predictor = open_predictor()
        stream = predictor.stream(told)
        interrupts = stack.enter_context(Interrupts())
        if options.snapshot is not None:
            stack.enter_context(kept(stream, options.snapshot))
        sinks = _sinks(options, rules, predictor.labels, stack)
        session = _Session(
            "stdin" if source == STDIN else source,
            EventProcessor(stream, predictor.labels, rules.threshold),
            sinks,
            wait,
            interrupts,
            Tally(),
        )
        for arrived in arriving(file, session.name, options.tick):
            session.take(arrived)
        tally = session.tally
        if not tally.total:
            raise InputError(f"got no event; {session.name} held no line")
    if rules.latency and len(tally.seconds):
        log_line(tally.latency())
    if tally.failed:
        log_line(f"{tally.failed} of {tally.total} events have no answer")
    return EXIT_SOME_FAILED if tally.failed else 0


@dataclass(frozen=True)
class _Session:
    name: str
    processor: EventProcessor
    sinks: Sequence[Sink]
    wait: Callable[[Event], None]
    interrupts: Interrupts
    tally: Tally

    def take(self, arrived: tuple[int, bytes] | None) -> None:
        """A line, or None for silence; raises InputError where its time cannot be kept."""
        number, line = arrived or (None, b"")
        where = f"{self.name}, line {number}" if number else f"{self.name}, silence"
        try:
            event = read_event(line) if number else Tick()
        except InputError as error:
            self._fail(number, None, where, error)
            return
        try:
            self.wait(event)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        with self.interrupts.held():
            self._hear(number, event, where)

    def _hear(self, number: int | None, event: Event, where: str) -> None:
        try:
            update = self.processor.answer(number, event)
        except IfmminError as error:
            self._fail(number, event, where, error)
            return
        self.tally.seconds.append(update.seconds)
        for sink in self.sinks:
            sink.show(update)

    def _fail(self, number: int | None, event: Event | None, where: str, error: Exception) -> None:
        message = f"{where}: {' '.join(str(error).split())}"
        self.tally.failed += 1
        for sink in self.sinks:
            sink.fail(number, event, message)
        log_line(f"error: {message}")


def _at_once(event: Event) -> None:
    """Hold no event back."""


def _sinks(
    options: SessionOptions, rules: RunOptions, labels: Sequence[str], stack: ExitStack
) -> list[Sink]:
    sinks: list[Sink] = []
    if rules.save is not None:
        keep = stack.enter_context(saved_lines(rules.save))
        sinks.append(UpdateLines(labels, rules.top_k, keep))
    if options.live:
        from .live import live_sink

        return [*sinks, stack.enter_context(live_sink(labels))]
    return [*sinks, UpdateLines(labels, rules.top_k, write)]


def _require_places(options: SessionOptions, rules: RunOptions) -> None:
    if options.live:
        from .live import require_terminal

        require_terminal()
    if options.snapshot is not None:
        require_writable_file(options.snapshot)
    if rules.save is not None and LAYOUT_OF.get(rules.save.suffix) != "json":
        raise InputError(f"--save {rules.save}: answers of a stream are JSON; name it .jsonl")
