"""Heads of streams, and what was answered by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends import Runner
from ifmmin.runtime.modality import Pattern
from ifmmin.runtime.parts import Parts

Summaries = Sequence[NDArray[np.float32]]
"""Per modality of a pattern (1, S)."""
Concluded = tuple[NDArray[np.float32], int, NDArray[np.float32]]
"""Logits, the winning class, probabilities: of an answer that nothing changed since."""


class Head(NamedTuple):
    """The head graph of a pattern, loaded and ready."""

    pattern: Pattern
    name: str
    """The pattern's."""
    letters: Sequence[str]
    """Its inputs, in canonical order."""
    run: Runner
    placement: Mapping[str, int]
    """As in `Loaded`."""

    @classmethod
    def load(cls, parts: Parts, pattern: Pattern) -> Head:
        """Of a pattern; the caller holds the lock of the parts."""
        loaded, letters = parts.head(pattern), [m.value for m in pattern]
        return cls(pattern, str(pattern), letters, loaded.run, loaded.placement)


class Answered(NamedTuple):
    """The last answer, and what it was made of."""

    head: Head
    summaries: Summaries
    logits: NDArray[np.float32]
    """(C,)"""

    def with_summary(self, now: NDArray[np.float32], before: object) -> Answered:
        """The same, made of an equal summary in the place of another."""
        return self._replace(summaries=[now if one is before else one for one in self.summaries])
