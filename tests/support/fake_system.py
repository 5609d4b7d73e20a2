"""What stands in for a system under load, and for a clock that other work does not move."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COUNT = 20
TRUTH = np.array([[index, -index, 0.5 * index] for index in range(COUNT)])


class FakeSystem:
    """Answers with a row of TRUTH per sample, `delay` seconds later for each."""

    name = "fake"
    count = COUNT

    def __init__(self, delay: float = 0.0, fails_at: int = 0, failure: BaseException | None = None):
        self.delay = delay
        self.fails_at = fails_at
        """Issue, counted from 1, that raises `failure`, as do all later ones."""
        self.failure = failure or RuntimeError("out of order")
        self.issues: list[list[int]] = []

    def issue(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """Logits (N, 3)."""
        self.issues.append(list(indices))
        if 0 < self.fails_at <= len(self.issues):
            raise self.failure
        if self.delay:
            time.sleep(self.delay * len(indices))
        return TRUTH[list(indices)].astype(np.float32)

    @property
    def asked(self) -> list[int]:
        """Samples in the order asked for."""
        return [index for issue in self.issues for index in issue]


class MadeClock:
    """In the place of the module `time`, for what asks it how late it is."""

    now = 1000.0
    """Seconds."""

    def monotonic(self) -> float:
        """As of `time`."""
        return self.now

    def perf_counter(self) -> float:
        """As of `time`."""
        return self.now
