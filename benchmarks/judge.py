"""Whether a row became slower: its ratio beside all that chance puts into it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ifmmin.benchmarks.control import pair_key
from ifmmin.benchmarks.drift import NO_DRIFT, RESPONSE, Change, Drift, Noise
from ifmmin.benchmarks.record import Row
from ifmmin.benchmarks.significance import Step, holm, student_quantile, student_tail
from ifmmin.benchmarks.statistics import Ratio, log_ratio_variance

ALPHA = 0.01
"""Chance of any false alarm in one direction, over all rows of a comparison."""
FEWEST = 5
"""Samples of a row below which its median says too little."""
TIMES = ("s", "1/s")
"""Units that follow the speed of the machine."""

_DEGREES_OF_ROOT = 1.5
"""Degrees of freedom of the bootstrap's variance of two medians, per root of their samples: its
relative error falls with the fourth root only (Hall and Martin, On the error of the bootstrap
quantile variance estimator, 1988); the factor was found by drawing."""

Verdict = Literal["slower", "faster", "same"]


@dataclass(frozen=True)
class Compared:
    """One of our rows in both runs."""

    before: Row
    after: Row
    ratio: Ratio
    """after / before in cost without the drift; its interval holds for all rows at once."""
    verdict: Verdict
    twin: float | None
    """The same of its twin. A slower graph slows both; if the twin stays, look at the session."""


def judge(
    ours: Sequence[tuple[Row, Row]],
    noise: Noise,
    drift: Drift,
    twins: Mapping[tuple[object, ...], tuple[Row, Row]],
    threshold: float,
) -> tuple[Compared, ...]:
    """Ratio, interval and verdict of every row of ours, as (before, after).

    twins: those of the twin, by `control.pair_key`.
    """
    tested = [_test(b, a, noise, drift) for b, a in ours]
    steps = holm([student_tail(abs(t.value) / t.error, t.degrees) for t in tested], ALPHA)
    rows = []
    for (b, a), test, step in zip(ours, tested, steps, strict=True):
        twin = twins.get(pair_key(b))
        rows.append(
            Compared(
                before=b,
                after=a,
                ratio=test.ratio(step.alpha),
                verdict=_verdict(test, step, threshold),
                twin=_plain_ratio(*twin, drift) if twin else None,
            )
        )
    return tuple(rows)


@dataclass(frozen=True)
class _Test:
    """The logarithm of a row's ratio, freed of the drift, and how sure it is."""

    value: float
    error: float
    degrees: float

    def ratio(self, alpha: float) -> Ratio:
        """The ratio with the interval that leaves `alpha` out on each side."""
        reach = self.error * student_quantile(alpha, self.degrees)
        return Ratio(*(math.exp(self.value + step) for step in (0.0, -reach, reach)))


def _test(before: Row, after: Row, noise: Noise, drift: Drift) -> _Test:
    """The ratio of a row's medians beside all that chance puts into it."""
    change = change_of(before, after)
    moved, uncertain = drift.of(change.group) if before.unit in TIMES else NO_DRIFT.of(())
    few = _DEGREES_OF_ROOT * math.sqrt(min(len(before.samples), len(after.samples)))
    variance = change.variance + noise.variance + uncertain + (RESPONSE * moved) ** 2
    weights = change.variance**2 / few + noise.variance**2 / noise.degrees
    return _Test(
        value=change.value - moved,
        # Counters such as bytes may be equal to the last digit in every sample.
        error=max(math.sqrt(variance), 1e-6),
        degrees=max(1.0, variance**2 / weights) if weights > 0 else math.inf,
    )


def _plain_ratio(before: Row, after: Row, drift: Drift) -> float:
    """After / before in cost without the drift."""
    moved = drift.of(before.group)[0] if before.unit in TIMES else 0.0
    return math.exp(_log_ratio(before, after) - moved)


def _verdict(test: _Test, step: Step, threshold: float) -> Verdict:
    if not step.rejected or abs(test.value) < math.log1p(threshold):
        return "same"
    return "slower" if test.value > 0 else "faster"


def change_of(before: Row, after: Row, *, paired: bool = False) -> Change:
    """How the cost changed between two rows. paired: they were measured in the same rounds."""
    variance = log_ratio_variance(after.samples, before.samples, paired=paired)
    return Change(before.group, _log_ratio(before, after), variance)


def _log_ratio(before: Row, after: Row) -> float:
    sign = -1.0 if before.unit == "1/s" else 1.0
    return sign * math.log(np.median(after.samples) / np.median(before.samples))
