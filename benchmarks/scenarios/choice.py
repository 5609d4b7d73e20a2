"""Which patterns stand for all where measuring every one would take too long."""

from __future__ import annotations

from collections.abc import Sequence

from ifmmin.runtime.modality import Modality, Pattern

_ALONE = Pattern.of([Modality.A])


def alone_and_fullest(patterns: Sequence[Pattern]) -> list[Pattern]:
    """The acoustic one, in its absence the smallest, and the one with the most modalities."""
    smallest = _ALONE if _ALONE in patterns else min(patterns, key=_size)
    return list(dict.fromkeys((smallest, max(patterns, key=_size))))


def _size(pattern: Pattern) -> int:
    return len(pattern.present)
