"""Recordings of `ifmmin-run`: files of sound with what is said in them, and sentences alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ..console import progress
from ..errors import InputError
from ..files import read_regular
from ..frontends.sound import duration
from .readers import LazySample, Reader, Sample, Signals

SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3")
"""Suffixes of files that are taken for recordings."""
_TEXT_BYTES = 1 << 24
_BAR_FROM = 50
"""Number of inputs from which progress is shown."""
_LONG = 120
"""Seconds of sound, altogether, from which progress in it is shown."""
Tell = Callable[[LazySample, float | None], None]
"""Of an input: the second until which it was answered; None: all of it."""


def is_sound(path: Path) -> bool:
    """Whether a file's name is that of a recording."""
    return path.suffix.lower() in SOUNDS


def recording(path: Path, text: str | None = None) -> Reader:
    """A recording. text: what is said; None: the content of the file of the same name in .txt."""
    lazy = LazySample(path.name, str(path), partial(_read, path, text))
    return Reader(1, lambda: iter([lazy]), sounds=(path,))


def sentence(text: str) -> Reader:
    """A sentence without its sound."""
    lazy = LazySample("text", "--text", lambda: Sample("text", {}, signals=Signals(text=text)))
    return Reader(1, lambda: iter([lazy]))


def with_text(text: str | None, arguments: Iterable[str]) -> Iterator[Reader]:
    """What `--text` belongs to: the one recording that is named, or nothing but itself."""
    named = [Path(argument) for argument in arguments]
    if text is None:
        return
    if not named:
        yield sentence(text)
    elif len(named) == 1 and is_sound(named[0]):
        yield recording(named[0], text)
    else:
        raise InputError(
            "--text goes with one recording, or alone; for many put what is said beside each, in "
            "clip.txt for clip.wav"
        )


def read_text(path: Path) -> str:
    """The text of a file in UTF-8; InputError where it is none."""
    try:
        return read_regular(path, InputError, _TEXT_BYTES).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not in UTF-8 ({error.reason}); save it so") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _read(path: Path, text: str | None) -> Sample:
    beside = path.with_suffix(".txt")
    if text is None and beside.is_file():
        text = read_text(beside)
    face = path.with_suffix(".csv")
    signals = Signals(path, text, face if face.is_file() else None)
    return Sample(path.name, {}, signals=signals)


@contextmanager
def shown_progress(reader: Reader, layout: str) -> Iterator[Tell]:
    """A bar for many inputs or long ones, unless it would stand among answers on a terminal."""
    seconds = _seconds(reader)
    total = sum(seconds.values()) or reader.count or 0
    if total < (_LONG if seconds else _BAR_FROM) or (layout != "table" and sys.stdout.isatty()):
        yield lambda lazy, until: None
        return
    heard = 0
    """Seconds of the present recording."""
    with progress("seconds heard" if seconds else "predict", total) as advance:

        def tell(lazy: LazySample, until: float | None) -> None:
            nonlocal heard
            now = seconds.get(lazy.where, 0) if until is None else int(until)
            if now > heard:
                advance("", now - heard)
            elif not seconds and until is None:
                advance("")
            heard = 0 if until is None else now

        yield tell


def _seconds(reader: Reader) -> dict[str, int]:
    """How long every recording is; empty where there are other inputs, or some cannot be read."""
    if reader.count != len(reader.sounds):
        return {}
    try:
        return {str(path): int(duration(path)) for path in reader.sounds}
    except InputError:
        return {}
