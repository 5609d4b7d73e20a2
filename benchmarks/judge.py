"""Whether a row became slower: its ratio beside all that chance puts into it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ifmmin.benchmarks.control import pair_key
from ifmmin.benchmarks.drift import ALIKE, NO_DRIFT, RESPONSE, Change, Drift, Noise
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

NO_MARKS: Mapping[tuple[object, ...], tuple[Row, Row]] = {}

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
    marks: Mapping[tuple[object, ...], tuple[Row, Row]] = NO_MARKS,
) -> tuple[Compared, ...]:
    """Ratio, interval and verdict of every row of ours, as (before, after).

    twins: those of the twin, by `control.pair_key`. marks: yardsticks, by group.
    """
    tested = []
    for b, a in ours:
        mark = marks.get(b.group) if b.unit == "s" else None
        both = [(b, a), *([twins[pair_key(b)]] if pair_key(b) in twins else [])]
        tested.append(
            _test_beside(both, mark, noise.tempered()) if mark else _test(b, a, noise, drift)
        )
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


def _test_beside(both: Sequence[tuple[Row, Row]], mark: tuple[Row, Row], noise: Noise) -> _Test:
    """The same by how a row and its twin stood to a yardstick, round by round: whatever the machine
    did to all of them in a round is gone. both: the row, and the twin where there is one."""
    here, there = (_beside([rows[turn] for rows in both], mark[turn]) for turn in range(2))
    value = math.log(np.median(there) / np.median(here))
    own = log_ratio_variance(there, here, paired=False)
    # The row, its twin and the yardstick each have sessions of their own.
    luck = (1 + 1 / len(both)) * noise.variance
    variance = own + luck + (ALIKE * _log_ratio(*mark)) ** 2
    few = _DEGREES_OF_ROOT * math.sqrt(min(len(here), len(there)))
    weights = own**2 / few + luck**2 / noise.degrees
    return _Test(
        value=value,
        error=max(math.sqrt(variance), 1e-6),
        degrees=max(1.0, variance**2 / weights) if weights > 0 else math.inf,
    )


def _beside(rows: Sequence[Row], mark: Row) -> NDArray[np.float64]:
    """Per round the cost over that of the yardstick, the geometric mean of the rows."""
    rounds = min(len(row.samples) for row in (*rows, mark))
    logs = [np.log(row.samples[:rounds]) for row in (*rows, mark)]
    return np.asarray(np.exp(np.mean(logs[:-1], axis=0) - logs[-1]))


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
