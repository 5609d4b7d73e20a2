"""Arrays of many streams, side by side as a graph takes them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Joined(NamedTuple):
    """Joined (1, ...) side by side."""

    each: Sequence[NDArray[np.float32]]
    whole: NDArray[np.float32]
    """(B, ...)"""

    @classmethod
    def split(cls, whole: NDArray[np.float32]) -> Joined:
        """Of an array (B, ...), whose rows its parts are."""
        return cls([whole] if len(whole) == 1 else list(whole[:, None]), whole)

    @classmethod
    def join(cls, rows: Sequence[NDArray[np.float32]]) -> Joined:
        """Of some rows."""
        return cls(rows, rows[0] if len(rows) == 1 else np.concatenate(rows))

    def has(self, rows: Sequence[NDArray[np.float32]]) -> bool:
        """Whether it is made of these very rows."""
        return same(rows, self.each)


def same(these: Sequence[object], those: Sequence[object]) -> bool:
    """Whether they are the very same things in the same order."""
    return len(these) == len(those) and all(map(is_, these, those))


def own(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy of what is part of a larger array, and so would keep all of it; else the array."""
    return array.copy() if isinstance(array.base, np.ndarray) else array
