"""Utterances as lines of JSON, in a file or on standard input; docs/run.md has the schema."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.json_lines import (
    Frames,
    Quality,
    decode_line,
    frames_by_letter,
    numbered,
    readable,
)
from ifmmin.runtime.sources import Clip, Item, Source

_EXAMPLE = '{"id": "clip1", "a": [[0.1, 0.2], [0.3, 0.4]], "t": null}'


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    id: str | int | None = None
    a: Frames | None = None
    v: Frames | None = None
    t: Frames | None = None
    quality: Quality | None = None


_decoder = msgspec.json.Decoder(_Line)


def jsonl_file(path: Path) -> Source:
    """The lines of a file; InputError when it cannot be read."""
    with readable(path), path.open("rb") as file:
        count = sum(1 for _ in numbered(file))
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
    content = decode_line(_decoder, line, _EXAMPLE)
    return Clip(
        name if content.id is None else str(content.id),
        frames_by_letter(a=content.a, v=content.v, t=content.t),
        content.quality.scores if content.quality else {},
    )


def _file_items(path: Path) -> Iterator[Item]:
    with readable(path), path.open("rb") as file:
        yield from _items(file, str(path))


def _stdin_items() -> Iterator[Item]:
    with readable("stdin"):
        yield from _items(sys.stdin.buffer, "stdin")


def _items(lines: Iterable[bytes], source: str) -> Iterator[Item]:
    for number, line in numbered(lines):
        name = f"{Path(source).name}:{number}"
        yield Item(name, f"{source}, line {number}", partial(read_line, line, name))
