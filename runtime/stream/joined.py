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
        """Of an array (B, ...), copied: a silent stream must not hold all the others'."""
        return cls([whole] if len(whole) == 1 else [row.copy() for row in whole[:, None]], whole)

    @classmethod
    def join(cls, rows: Sequence[NDArray[np.float32]]) -> Joined:
        """Of some rows."""
        return cls(rows, rows[0] if len(rows) == 1 else np.concatenate(rows))

    def has(self, rows: Sequence[NDArray[np.float32]]) -> bool:
        """Whether it is made of these very rows."""
        return len(rows) == len(self.each) and all(map(is_, rows, self.each))
