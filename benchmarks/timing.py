"""Fair timing of calls beside each other: shuffled turns, warm-up, raw samples kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

WARM_UP = 10
WARM_UP_SECONDS = 0.25
"""A call is not warmed up for longer, but for its first two calls: what is slow is warm sooner."""
_FEWEST_WARM_UPS = 2
SETTLING = 4
"""Untimed calls before a timed one. After another network's turn a short call takes 1.3 to 2 times
as long as in a row of its own, the next 1.3, the third 1.1: shared caches give way step by step."""
SETTLING_SECONDS = 0.004
"""No further one begins after so many: what takes long has settled within a call or two."""

Name = TypeVar("Name", bound=Hashable)
Call = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Durations of one call."""

    samples: NDArray[np.float64]
    """Seconds, in the order of measurement."""

    def percentile(self, percent: float) -> float:
        """Seconds below which `percent` of the samples lie."""
        return float(np.percentile(self.samples, percent))

    @property
    def p50(self) -> float:
        """The median in seconds."""
        return self.percentile(50)

    @property
    def p99(self) -> float:
        """The 99th percentile in seconds."""
        return self.percentile(99)


def time_together(
    calls: Mapping[Name, Call | Sequence[Call]],
    *,
    repeats: int,
    seed: int = 0,
    warm_up: int = WARM_UP,
    seconds: float = math.inf,
    fewest: int = 1,
    settled: bool = False,
) -> dict[Name, Timing]:
    """Time every call `repeats` times, one call at a time in an order shuffled anew each round.

    Of a sequence, such as of sessions of one graph, another one is called each round.

    A call that always follows its twin would find the caches warm and look faster than it is; one
    that always follows others finds them full of what is not its own. settled: every timed call
    follows up to SETTLING of its own that are not timed, as where one network answers again and
    again.
    seconds: no round begins after so many, warm-up included, but the first `fewest`.
    """
    rng = np.random.default_rng(seed)
    names = list(calls)
    takers = {name: call if isinstance(call, Sequence) else (call,) for name, call in calls.items()}
    ends = time.perf_counter() + seconds
    for name in names:
        for call in takers[name]:
            _warm(call, warm_up)
    samples = {name: np.empty(repeats) for name in names}
    for turn in range(repeats):
        if turn >= max(1, fewest) and time.perf_counter() > ends:
            return {name: Timing(values[:turn]) for name, values in samples.items()}
        for index in rng.permutation(len(names)):
            own = takers[names[index]]
            call = own[turn % len(own)]
            if settled:
                _settle(call)
            started = time.perf_counter()
            call()
            samples[names[index]][turn] = time.perf_counter() - started
    return {name: Timing(values) for name, values in samples.items()}


def _settle(call: Call) -> None:
    ends = time.perf_counter() + SETTLING_SECONDS
    for _ in range(SETTLING):
        call()
        if time.perf_counter() >= ends:
            return


def _warm(call: Call, times: int) -> None:
    ends = time.perf_counter() + WARM_UP_SECONDS
    for number in range(times):
        if number >= _FEWEST_WARM_UPS and time.perf_counter() > ends:
            return
        call()
