"""The A/A control: how much two sessions of one graph differ, which nothing but chance explains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ifmmin.benchmarks.record import OURS, TWIN, Row


def controls(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Our rows beside their twins, as (ours, twin)."""
    measured = [row for row in rows if row.samples]
    twins = {_pair_key(row): row for row in measured if row.contender == TWIN}
    ours = (row for row in measured if row.contender == OURS)
    return [(row, twins[_pair_key(row)]) for row in ours if _pair_key(row) in twins]


def measured_noise(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """`Report.noise` of these rows: of several controls of a pattern the one farthest from 1."""
    noise: dict[str, dict[str, float]] = {}
    for ours, twin in controls(rows):
        middle = float(np.median(ours.samples))
        ratio = float(np.median(twin.samples)) / middle if middle > 0 else 0.0
        if ratio > 0:
            patterns = noise.setdefault(ours.scenario, {})
            patterns[ours.pattern] = max(patterns.get(ours.pattern, 1.0), ratio, key=_distance)
    return noise


def spread(noise: Mapping[str, Mapping[str, float]], scenario: str) -> float | None:
    """The farthest that a control of a scenario lay from 1, such as 0.04; None without a control.

    A single pattern's control may lie near 1 by luck, so all of the scenario's count.
    """
    distances = [_distance(ratio) for ratio in noise.get(scenario, {}).values()]
    return math.expm1(max(distances)) if distances else None


def _distance(ratio: float) -> float:
    """From 1, alike for a ratio and its reciprocal."""
    return abs(math.log(ratio))


def _pair_key(row: Row) -> tuple[object, ...]:
    """What a twin shares with our row of the same graph."""
    return (*row.group, row.backend, row.precision)
