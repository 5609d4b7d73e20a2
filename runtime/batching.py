"""Which utterances run together: the same pattern, and similar lengths, since padding costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.validate import Conformed


@dataclass(frozen=True)
class PlannedBatch:
    """Utterances of one pattern."""

    pattern: Pattern
    rows: list[int]
    """Their positions in what was given."""

    def inputs(self, found: Sequence[Conformed]) -> list[dict[Modality, NDArray[np.float32]]]:
        """Their features."""
        return [{m: found[i].features[m] for m in self.pattern} for i in self.rows]


def plan_batches(
    found: Sequence[Conformed], used: Sequence[Pattern | None], size: int
) -> Iterator[PlannedBatch]:
    """Batches of at most `size` utterances, those of a pattern sorted by their frames."""
    if size < 1:
        raise InputError(f"batch_size must be at least 1, got {size}")
    groups: dict[Pattern, list[int]] = {}
    for index, pattern in enumerate(used):
        if pattern is not None:
            groups.setdefault(pattern, []).append(index)
    for pattern, rows in groups.items():
        rows.sort(key=lambda i: sum(map(len, found[i].features.values())))
        for start in range(0, len(rows), size):
            yield PlannedBatch(pattern, rows[start : start + size])
