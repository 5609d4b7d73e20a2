"""Session of `ifmmin-run --mic` and `--pcm`: sound as it comes, an answer every half second."""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from ..console import log_line, write
from ..errors import BackendUnavailable, IfmminError, InputError
from ..files import require_writable_file
from ..frontends.sound import RATE, Sound
from ..modality import Modality
from ..predictor import Predictor
from ..recognizer import Recognizer
from ..stream.options import StreamOptions
from .events import EventProcessor, Sink, Tick, UpdateLines
from .options import SessionOptions
from .run import RunOptions, Tally
from .stream import Interrupts, kept, opened, stream_options
from .writers import LAYOUT_OF, saved_lines

EVERY = 0.5
"""Seconds of sound from one answer to the next."""
_PIECES = 5
"""Pieces of sound that make these."""
_WINDOW, _HOP = 8.0, 2.0
"""Seconds that an answer looks back, where nothing else is said: feelings pass."""


def listen(
    mic: bool,
    rate: int | None,
    inputs: Sequence[str],
    text: str | None,
    options: SessionOptions,
    rules: RunOptions,
    open_predictor: Callable[[], Predictor],
) -> int:
    """Hear until the sound ends, or Ctrl-C, and show every answer: bars on a terminal, lines of
    JSON elsewhere. rate: of raw 16-bit mono sound; None: that of the microphone."""
    wanted = 0 if mic else 1
    if (mic and rate is not None) or len(inputs) != wanted:
        raise InputError(
            "--mic takes no input; --pcm HZ takes one: a file of raw 16-bit mono sound, or - for "
            "standard input"
        )
    if options.snapshot is not None:
        require_writable_file(options.snapshot)
    if rules.save is not None and LAYOUT_OF.get(rules.save.suffix) != "json":
        raise InputError(f"--save {rules.save}: answers of a stream are JSON; name it .jsonl")
    told = stream_options(options)
    with ExitStack() as stack:
        pieces = (
            microphone(stack) if rate is None else raw(stack.enter_context(opened(inputs[0])), rate)
        )
        predictor = open_predictor()
        stream = Recognizer(predictor).stream(told if options.window else _with_window(told))
        interrupts = stack.enter_context(Interrupts())
        if options.snapshot is not None:
            stack.enter_context(kept(stream, options.snapshot))
        if text is not None:
            stream.set_text(text)
        if Modality.A not in stream.features.state.channels:
            raise InputError("the bundle has no graphs for streams of sound; export it with them")
        processor = EventProcessor(stream.features, predictor.labels, rules.threshold)
        sinks, tally = _sinks(rules, predictor.labels, stack), Tally()
        heard, due = 0.0, EVERY
        for piece in pieces:
            with interrupts.held():
                stream.push_sound(piece.samples, piece.rate)
                heard += piece.seconds
                if heard + 1e-9 >= due:
                    due += EVERY
                    _show(processor, sinks, heard, tally)
        if heard + 1e-9 < EVERY:
            raise InputError(
                f"--pcm: got {heard:.3f} s of sound, wanted {EVERY} s for an answer, as 16-bit "
                f"samples at {rate} Hz"
            )
    if rules.latency and len(tally.seconds):
        log_line(tally.latency())
    return 0


def _with_window(told: StreamOptions) -> StreamOptions:
    return StreamOptions(
        window=_WINDOW, hop=_HOP, stale_after=told.stale_after, smoothing=told.smoothing
    )


def _show(processor: EventProcessor, sinks: Sequence[Sink], at: float, tally: Tally) -> None:
    try:
        update = processor.answer(None, Tick(at=at))
    except IfmminError as error:
        log_line(f"error: {error}")
        return
    tally.seconds.append(update.seconds)
    for sink in sinks:
        sink.show(update)


def raw(file: Any, rate: int) -> Iterator[Sound]:
    """Pieces of raw sound, 16-bit little-endian mono, as they come."""
    if not 1000 <= rate <= 1_000_000:
        raise InputError(f"--pcm: got {rate}, wanted a rate in Hz such as 16000")
    size = 2 * max(1, round(rate * EVERY / _PIECES))
    begun = b""
    while content := file.read1(size - len(begun)):
        begun += content
        if len(begun) == size:
            yield Sound(np.frombuffer(begun, "<i2"), rate)
            begun = b""
    if even := len(begun) // 2 * 2:
        yield Sound(np.frombuffer(begun[:even], "<i2"), rate)


def microphone(stack: ExitStack) -> Iterator[Sound]:
    """Pieces of sound of the microphone, without end."""
    try:
        import sounddevice
    except ImportError as error:
        raise BackendUnavailable(
            "--mic needs sounddevice: pip install 'ifmmin[mic]'; or arecord -f S16_LE -r 16000 | "
            "ifmmin-run --pcm 16000 -"
        ) from error
    except OSError as error:  # PortAudio is not there
        raise BackendUnavailable(
            f"--mic: {error}; install it (apt install libportaudio2), or use arecord -f S16_LE "
            "-r 16000 | ifmmin-run --pcm 16000 -"
        ) from error
    arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def take(samples: Any, _frames: int, _time: Any, status: Any) -> None:
        if status.input_overflow:
            log_line("sound was lost: this machine does not keep up")
        arrived.put(np.array(samples[:, 0]))

    size = round(RATE * EVERY / _PIECES)
    try:
        stack.enter_context(
            sounddevice.InputStream(
                RATE, size, channels=1, dtype="int16", latency="low", callback=take
            )
        )
    except sounddevice.PortAudioError as error:
        raise BackendUnavailable(
            f"no microphone can be heard: {error}; connect one, or send sound by --pcm"
        ) from error
    return _arriving(arrived)


def _arriving(arrived: queue.SimpleQueue[Any]) -> Iterator[Sound]:
    while True:
        yield Sound(arrived.get(), RATE)


def _sinks(rules: RunOptions, labels: Sequence[str], stack: ExitStack) -> list[Sink]:
    sinks: list[Sink] = []
    if rules.save is not None:
        keep = stack.enter_context(saved_lines(rules.save))
        sinks.append(UpdateLines(labels, rules.top_k, keep))
    if rules.layout == "table" and sys.stdout.isatty():
        from .live import live_sink

        return [*sinks, stack.enter_context(live_sink(labels))]
    return [*sinks, UpdateLines(labels, rules.top_k, write)]
