"""Mutations of bytes, as a bad disk, a cut transfer and somebody who means harm leave them."""

from __future__ import annotations

import copy
import math
import os
import resource
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

MANY = int(os.environ.get("IFMMIN_FUZZ", "0"))
"""Mutations of each kind of file; `make fuzz` sets it."""
_WORDS = (
    b"null", b"NaN", b"-1", b"1e999", b"99999999999999999999", b"[[[[", b"{}", b'""', b"\x00",
    b"\xff" * 8, b"\\u0000", b"../", b"\x1b]0;", b"true", struct.pack("<Q", 1 << 62),
    struct.pack("<Q", 1 << 40), struct.pack("<I", 0xFFFFFFFF), b"PK\x03\x04", b"\x93NUMPY", b"O",
    b"]" * 40, b"," * 9, b"\n",
)  # fmt: skip
Change = Callable[[bytes], bytes]
_SECONDS, _MIB = 20.0, 1500
"""What one mutation may take at most, in time and in memory beside what was there before."""


def fuzzed(examples: int) -> settings:
    """Settings of a test over mutations: the same ones every time, and more where asked for."""
    return settings(
        max_examples=MANY or examples, derandomize=True, deadline=None, database=None,
        print_blob=False,
    )  # fmt: skip


def mutations(within: tuple[float, float] = (0.0, 1.0)) -> st.SearchStrategy[list[Change]]:
    """One to four changes of some bytes. within: the part of them that is changed, as shares."""
    place = st.floats(*within, exclude_max=True)
    return st.lists(
        st.one_of(
            st.builds(_flip, place, st.integers(0, 7)),
            st.builds(_put, place, st.sampled_from(_WORDS), st.booleans()),
            st.builds(_put, place, st.binary(min_size=1, max_size=9), st.booleans()),
            st.builds(_cut, place, st.integers(1, 400)),
            st.builds(_repeat, place, st.integers(1, 60), st.integers(2, 40)),
            st.builds(_end, place),
        ),
        min_size=1,
        max_size=4,
    )


def mutated(content: bytes, changes: list[Change]) -> bytes:
    """Bytes after all changes."""
    for change in changes:
        content = change(content) if content else content
    return content


_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 7, 1 << 31, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1, -0.5, 1e300, -1e300,
    math.nan, math.inf, "", "f8,(", "O", "../x", "\x00", "x" * 5000, b"", b"\xff" * 16, [], [0],
    [[]], [1 << 62, 1 << 62], {}, {"": None},
)  # fmt: skip
"""What a field is not to be, or not so large."""
Edit = Callable[[Any], Any]


def edits() -> st.SearchStrategy[list[Edit]]:
    """One to three changes of a tree of dicts and lists, each of a value anywhere in it."""
    place = st.floats(0.0, 1.0, exclude_max=True)
    values = st.one_of(st.sampled_from(_VALUES), st.integers(-300, 300), st.floats(-1e6, 1e6))
    return st.lists(
        st.one_of(st.builds(_set, place, values), st.builds(_exchange, place, place)),
        min_size=1,
        max_size=3,
    )


def edited(tree: Any, changes: list[Edit]) -> Any:
    """A tree after all changes."""
    for change in changes:
        tree = change(copy.deepcopy(tree))
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every value in a tree, as what holds it and its key or number there."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [place for key in keys for place in ((tree, key), *_places(tree[key]))]


def _set(place: float, value: Any) -> Edit:
    def change(tree: Any) -> Any:
        if places := _places(tree):
            holder, key = places[int(place * len(places))]
            holder[key] = copy.deepcopy(value)
        return tree

    return change


def _exchange(place: float, other: float) -> Edit:
    """One value stands where another stood."""

    def change(tree: Any) -> Any:
        places = _places(tree)
        if places:
            holder, key = places[int(other * len(places))]
            value = copy.deepcopy(holder[key])
            return _set(place, value)(tree)
        return tree

    return change


def _flip(place: float, bit: int) -> Change:
    def change(content: bytes) -> bytes:
        at = int(place * len(content))
        return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]

    return change


def _put(place: float, word: bytes, over: bool) -> Change:
    def change(content: bytes) -> bytes:
        at = int(place * len(content))
        return content[:at] + word + content[at + len(word) * over :]

    return change


def _cut(place: float, count: int) -> Change:
    return lambda content: (
        content[: int(place * len(content))] + content[int(place * len(content)) + count :]
    )


def _repeat(place: float, count: int, times: int) -> Change:
    def change(content: bytes) -> bytes:
        at = int(place * len(content))
        return content[:at] + content[at : at + count] * times + content[at + count :]

    return change


def _end(place: float) -> Change:
    return lambda content: content[: int(place * len(content))]


@contextmanager
def bounded() -> Iterator[None]:
    """Fail where the block takes too long, or more memory than such an input may."""
    started, before = time.monotonic(), _peak()
    yield
    assert time.monotonic() - started < _SECONDS
    assert _peak() - before < _MIB


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
