"""Utterances as lines of JSON, in a file or on standard input; docs/run.md has the schema."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.sources import Clip, Item, Source

Frames = list[list[float | None]]


class _Quality(msgspec.Struct, forbid_unknown_fields=True):
    a: float | None = None
    v: float | None = None
    t: float | None = None


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    id: str | int | None = None
    a: Frames | None = None
    v: Frames | None = None
    t: Frames | None = None
    quality: _Quality | None = None


_decoder = msgspec.json.Decoder(_Line)


def jsonl_file(path: Path) -> Source:
    """The lines of a file; InputError when it cannot be read."""
    with _readable(path), path.open("rb") as file:
        count = sum(1 for line in file if line.strip())
    if not count:
        raise InputError(f"{path} is empty; each line is an utterance, such as {_EXAMPLE}")
    return Source(count, lambda: _file_items(path))


def jsonl_stdin() -> Source:
    """The lines of standard input, each handed on before the next one is read."""
    return Source(None, _stdin_items)


def read_line(line: bytes, name: str) -> Clip:
    """The utterance in one line of JSON; InputError says where in the line it is not one.

    name: for a line without `id`.
    """
    try:
        content = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(_explain(line, str(error))) from None
    given = {"a": content.a, "v": content.v, "t": content.t}
    scores = msgspec.structs.asdict(content.quality) if content.quality else {}
    return Clip(
        name if content.id is None else str(content.id),
        {letter: _array(letter, frames) for letter, frames in given.items() if frames is not None},
        {letter: score for letter, score in scores.items() if score is not None},
    )


def _file_items(path: Path) -> Iterator[Item]:
    with _readable(path), path.open("rb") as file:
        yield from _items(file, str(path))


def _stdin_items() -> Iterator[Item]:
    with _readable("stdin"):
        yield from _items(sys.stdin.buffer, "stdin")


@contextmanager
def _readable(source: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from error


def _items(lines: Iterable[bytes], source: str) -> Iterator[Item]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            name = f"{Path(source).name}:{number}"
            yield Item(name, f"{source}, line {number}", partial(read_line, line, name))


def _array(letter: str, frames: Frames) -> NDArray[np.float64]:
    """Frames (T, D) with NaN for null."""
    for index, frame in enumerate(frames):
        if len(frame) != len(frames[0]):
            raise InputError(
                f"modality {letter}: frame {index} has {len(frame)} numbers, frame 0 has "
                f"{len(frames[0])}; wanted as many in each"
            )
    return np.array(frames, dtype=np.float64)


_EXAMPLE = '{"id": "clip1", "a": [[0.1, 0.2], [0.3, 0.4]], "t": null}'


def _explain(line: bytes, reason: str) -> str:
    if "JSON is malformed" in reason and any(word in line for word in (b"NaN", b"Infinity")):
        return f"{reason}; JSON has no NaN, write null for it"
    return f"{reason}; wanted an object such as {_EXAMPLE}"
