"""The lines of a session as they arrive, from a file, a pipe or standard input."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.json_lines import numbered, readable

STDIN = "-"
_CHUNK_BYTES = 1 << 16


@contextmanager
def opened(source: str) -> Iterator[BinaryIO]:
    """The bytes of a path, or of standard input for `-`; InputError where there are none."""
    if source == STDIN:
        yield sys.stdin.buffer
        return
    if not Path(source).exists():
        raise InputError(f"no session at {source}; give a file of events, or - for standard input")
    with ExitStack() as stack:
        with readable(source):
            file = stack.enter_context(Path(source).open("rb"))
        yield file


def arriving(
    file: BinaryIO, source: str, every: float | None = None
) -> Iterator[tuple[int, bytes] | None]:
    """Numbered lines, each handed on as soon as it is there; blank ones are counted only.

    every: seconds of silence after each of which None comes; None: silence is waited out. Raises
    InputError where the source breaks off.
    """
    with readable(source):
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
    begun = bytearray()
    while True:
        if not select.select([descriptor], [], [], every)[0]:
            yield None
            continue
        chunk = os.read(descriptor, _CHUNK_BYTES)
        begun += chunk
        if chunk and b"\n" not in chunk:
            continue
        *whole, rest = bytes(begun).split(b"\n")
        yield from whole
        begun = bytearray(rest)
        if not chunk:
            yield from _last(begun)
            return


def _last(rest: bytearray) -> Iterable[bytes]:
    """What stands behind the last line's end, if anything does."""
    return [bytes(rest)] if rest else []
