"""What all lines of JSON share: frames with null for NaN, scores, numbers, clear errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError

Frames = list[list[float | None]]
Content = TypeVar("Content")


class Quality(msgspec.Struct, forbid_unknown_fields=True):
    """How far each modality can be trusted, where that is known."""

    a: float | None = None
    v: float | None = None
    t: float | None = None

    @property
    def scores(self) -> dict[str, float]:
        """Those that are known, per letter."""
        given = msgspec.structs.asdict(self)
        return {letter: score for letter, score in given.items() if score is not None}


def decode_line(decoder: msgspec.json.Decoder[Content], line: bytes, example: str) -> Content:
    """What a line of JSON holds; InputError says where in it something else was found.

    example: what would have been right.
    """
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(_explain(line, str(error), example)) from None


def frames_by_letter(**given: Frames | None) -> dict[str, NDArray[np.float64]]:
    """Frames (T, D) of each modality that is given, with NaN for null.

    Raises InputError for frames that are not equally long.
    """
    return {letter: _array(letter, x) for letter, x in given.items() if x is not None}


def numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, each with its number from 1; blank ones are counted."""
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


@contextmanager
def readable(source: object) -> Iterator[None]:
    """InputError in place of what the system says of a source that cannot be read."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from error


def _array(letter: str, frames: Frames) -> NDArray[np.float64]:
    for index, frame in enumerate(frames):
        if len(frame) != len(frames[0]):
            raise InputError(
                f"modality {letter}: frame {index} has {len(frame)} numbers, frame 0 has "
                f"{len(frames[0])}; wanted as many in each"
            )
    return np.array(frames, dtype=np.float64)


def _explain(line: bytes, reason: str, example: str) -> str:
    if "JSON is malformed" in reason and any(word in line for word in (b"NaN", b"Infinity")):
        return f"{reason}; JSON has no NaN, write null for it"
    return f"{reason}; wanted an object such as {example}"
