"""Timing of calls in shuffled turns, and figures of the samples.

Raw samples are kept; intervals assume no distribution.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
FEWEST = 6
"""Samples below which the smallest and the largest do not enclose the median with LEVEL; resampling
so few would give an interval too, and one that is far too narrow."""
RESAMPLES = 1000
_LARGEST = 4_000_000
"""Drawn samples per bootstrap; fewer resamples are drawn of rows that are longer than usual."""

Array = NDArray[np.float64]
Samples = Sequence[float] | Array


@dataclass(frozen=True)
class Interval:
    """Where a figure lies with the probability asked for."""

    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """Figures of one row, in the unit of its samples."""

    count: int
    p50: float
    p90: float
    p99: float
    """Of fewer than 100 samples no more than their largest."""
    interval: Interval | None
    """Of p50; None for fewer samples than can enclose it."""

    def percentile(self, percent: int) -> float:
        """One of the percentiles 50, 90 and 99."""
        return {50: self.p50, 90: self.p90, 99: self.p99}[percent]


@dataclass(frozen=True)
class Ratio:
    """A ratio of two medians with its interval."""

    value: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """1 lies outside the interval."""
        return not self.low <= 1.0 <= self.high


def summarise(samples: Samples) -> Summary:
    """Figures of samples, of which there must be one at least. Percentiles interpolate."""
    values = np.asarray(samples, np.float64)
    p50, p90, p99 = (float(q) for q in np.percentile(values, (50, 90, 99)))
    return Summary(count=len(values), p50=p50, p90=p90, p99=p99, interval=quantile_interval(values))


def quantile_interval(
    samples: Samples, share: float = 0.5, level: float = LEVEL
) -> Interval | None:
    """Two samples that enclose the quantile of `share` with a probability of at least `level`.

    Each side misses with at most half of what is left. None where even the smallest and the largest
    sample do not reach that: a median needs 6 samples for 95 %.
    """
    ordered = np.sort(np.asarray(samples, np.float64))
    below = np.cumsum(_binomial(len(ordered), share))  # P(at most k samples below), k = 0..n
    tail = (1.0 - level) / 2.0
    low = int(np.searchsorted(below, tail, side="right"))  # as many k have P(K <= k) <= tail
    high = int(np.searchsorted(below, 1.0 - tail, side="left")) + 1
    if low < 1 or high > len(ordered):
        return None
    return Interval(float(ordered[low - 1]), float(ordered[high - 1]))


def ratio_of_medians(
    numerator: Samples, denominator: Samples, *, paired: bool, level: float = LEVEL
) -> Ratio | None:
    """Median of `numerator` divided by that of `denominator`, with a bootstrap interval.

    paired: sample i of both is of the same round; rows of two runs are not paired, nor are rows of
    different length. The same samples give the same interval. None where a median is 0.
    """
    above, below = (np.asarray(samples, np.float64) for samples in (numerator, denominator))
    middle = float(np.median(below))
    if middle <= 0.0 or float(np.median(above)) <= 0.0:
        return None
    rng = np.random.default_rng(0)
    drawn = _draw(len(above), rng)
    alike = drawn if paired and len(above) == len(below) else _draw(len(below), rng)
    count = min(len(drawn), len(alike))
    medians = np.median(above[drawn[:count]], axis=1), np.median(below[alike[:count]], axis=1)
    # A row that is nearly always 0 has medians of 0.
    ratios = medians[0] / np.maximum(medians[1], np.finfo(np.float64).tiny)
    low, high = np.quantile(ratios, ((1.0 - level) / 2.0, (1.0 + level) / 2.0))
    return Ratio(float(np.median(above)) / middle, float(low), float(high))


def no_difference(ratio: Ratio | None, noise: float | None) -> bool:
    """Whether a ratio of two rows of one run says nothing.

    noise: how far the A/A control lay from 1, such as 0.04; None where there was none.
    """
    if ratio is None or not ratio.certain:
        return True
    return noise is not None and abs(math.log(ratio.value)) <= math.log1p(noise)


def _binomial(count: int, share: float) -> Array:
    """Probabilities (count + 1,) of the binomial distribution."""
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, count + 1)))))
    hits = np.arange(count + 1)
    choices = logs[-1] - logs - logs[::-1]
    chances = np.exp(choices + hits * math.log(share) + (count - hits) * math.log1p(-share))
    return np.asarray(chances, np.float64)


def _draw(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices (R, count) of rounds: blocks of neighbours, the last followed by the first."""
    length = max(1, round(count ** (1 / 3)))
    resamples = min(RESAMPLES, max(200, _LARGEST // count))
    starts = rng.integers(count, size=(resamples, -(-count // length), 1))
    blocks = (starts + np.arange(length)) % count
    return blocks.reshape(resamples, -1)[:, :count]


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


def shuffled_turns(
    count: int, rounds: int, *, seed: int, ends: float = math.inf, fewest: int = 1
) -> Iterator[tuple[int, int]]:
    """Round and index of every turn: each of `count` once a round, in an order drawn anew.

    ends: by `time.perf_counter`; no round begins after it, but the first `fewest`.
    """
    rng = np.random.default_rng(seed)
    for number in range(rounds):
        if number >= max(1, fewest) and time.perf_counter() > ends:
            return
        for index in rng.permutation(count):
            yield number, int(index)


def time_together(
    calls: Mapping[Name, Call | Sequence[Call]],
    *,
    repeats: int,
    seed: int = 0,
    warm_up: int = WARM_UP,
    seconds: float = math.inf,
    fewest: int = 1,
    settled: bool = False,
) -> dict[Name, Array]:
    """Seconds (R,) of every call, timed `repeats` times in an order shuffled anew each round.

    Of a sequence, such as of sessions of one graph, another one is called each round.

    A call that always follows its like would find the caches warm and look faster than it is; one
    that always follows others finds them full of what is not its own. settled: every timed call
    follows up to SETTLING of its own that are not timed, as where one network answers again and
    again.
    seconds: no round begins after so many, warm-up included, but the first `fewest`.
    """
    ends = time.perf_counter() + seconds
    takers = [call if isinstance(call, Sequence) else (call,) for call in calls.values()]
    for own in takers:
        for call in own:
            _warm(call, warm_up)
    samples: list[list[float]] = [[] for _ in takers]
    turns = shuffled_turns(len(takers), repeats, seed=seed, ends=ends, fewest=fewest)
    for number, index in turns:
        call = takers[index][number % len(takers[index])]
        if settled:
            _settle(call)
        started = time.perf_counter()
        call()
        samples[index].append(time.perf_counter() - started)
    return {name: np.array(found) for name, found in zip(calls, samples, strict=True)}


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
