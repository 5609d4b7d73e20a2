"""A row with what a reader wants beside its samples: figures, the bound, and the gain on a peer.

Numbers are shown in one unit for a whole column, with three digits that count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ifmmin.runtime.modality import ALL_PATTERNS

from ..record import CONTROL, OURS, REFERENCE, Report, Row, spread
from ..timing import FEWEST, Ratio, Summary, no_difference, ratio_of_medians, summarise

TIMES = "\N{MULTIPLICATION SIGN}"
TO = "\N{EN DASH}"
MICRO = "\N{MICRO SIGN}"
_STEPS: dict[str, tuple[tuple[float, str], ...]] = {
    "s": ((1e-6, f"{MICRO}s"), (1e-3, "ms"), (1.0, "s")),
    "J": ((1e-6, f"{MICRO}J"), (1e-3, "mJ"), (1.0, "J")),
    "bytes": ((1e3, "kB"), (1e6, "MB"), (1e9, "GB")),
    "1/s": ((1.0, "utterances/s"),),
}
_MOST = {"s": 20_000, "1/s": math.inf}
"""The largest number that is shown before the next unit is taken; else a thousand."""
BASELINES = ("monolith", "whole again", "one by one", "all summaries")
"""Contenders that gains are told against, the first that took part: the network exported once with
zeros for what is missing; of streams, all frames asked anew, each stream on its own, and everything
computed again that comes after a step."""
_PATTERNS = {str(pattern): place for place, pattern in enumerate(ALL_PATTERNS)}


@dataclass(frozen=True)
class Scale:
    """A unit to show values of a record in."""

    factor: float
    unit: str

    @classmethod
    def of(cls, unit: str, values: Iterable[float]) -> Scale:
        """The finest unit in which the largest of `values` is no long number."""
        largest = max(values, default=0.0)
        steps = _STEPS[unit]
        for factor, name in steps:
            if largest / factor <= _MOST.get(unit, 1000):
                return cls(factor, name)
        return cls(*steps[-1])

    def number(self, value: float) -> str:
        """The number alone."""
        return number(value / self.factor)

    def text(self, value: float) -> str:
        """The number with its unit."""
        return f"{self.number(value)} {self.unit}"


def number(value: float) -> str:
    """Three digits that count, thousands set apart, nothing rounded above the point."""
    if value == 0:
        return "0"
    digits = (
        0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2 if abs(value) >= 0.1 else 3
    )
    return f"{value:,.{digits}f}"


def span(low: str, high: str) -> str:
    """From one number to another."""
    return f"{low}{TO}{high}"


def percent(share: float) -> str:
    """A share such as 0.043 as `4.3 %`."""
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


@dataclass(frozen=True)
class Measured:
    """A row that has samples."""

    row: Row
    summary: Summary
    baseline: Row | None
    """What the row is compared with: of its group, by the baseline."""
    noise: float | None
    """How far the A/A control of the scenario lay from 1; None without one."""
    against: str = ""
    """Contender of the baseline of its group, also of the baseline itself; empty without one."""

    @cached_property
    def gain(self) -> Ratio | None:
        """Cost of the baseline divided by that of the row, in rounds they shared; above 1 is
        better."""
        if self.baseline is None:
            return None
        ours, theirs = self.row.samples, self.baseline.samples
        above, below = (ours, theirs) if self.row.unit == "1/s" else (theirs, ours)
        return ratio_of_medians(above, below, paired=True)

    @property
    def few(self) -> bool:
        """There are too few samples for an interval that could be believed."""
        return min(self.summary.count, len(self.baseline.samples) if self.baseline else 0) < FEWEST

    @property
    def within_noise(self) -> bool:
        """The gain says nothing: its interval holds 1, or two sessions of one graph differ as
        much."""
        return no_difference(self.gain, self.noise)

    @property
    def of_bound(self) -> float | None:
        """How many times the best possible cost this is."""
        row, p50 = self.row, self.summary.p50
        if row.bound is None or p50 <= 0:
            return None
        return row.bound / p50 if row.unit == "1/s" else p50 / row.bound


def measure(report: Report, *scenarios: str) -> tuple[Measured, ...]:
    """Rows of some scenarios: patterns in canonical order, then conditions, then the best first."""
    rows = [row for row in report.of(*scenarios) if row.contender != REFERENCE]
    baselines = _baselines(rows)
    found = []
    for row in rows:
        base = baselines.get(row.group)
        found.append(
            Measured(
                row,
                summarise(row.samples),
                None if base is row else base,
                spread(report.noise, row.scenario),
                base.contender if base else "",
            )
        )
    # Parts come in the order in which they were measured, such as import before build.
    parts = list(dict.fromkeys(row.part for row in rows))
    return tuple(sorted(found, key=lambda item: _place(item, parts)))


def compared_with(items: Iterable[Measured]) -> str:
    """The contender that gains of these items are told against; empty where there is none."""
    return next((item.against for item in items if item.against), "")


def cost(measured: Measured) -> float:
    """The median turned so that less is better."""
    p50 = measured.summary.p50
    return -p50 if measured.row.unit == "1/s" else p50


def fastest(items: Iterable[Measured], *fields: str) -> list[Measured]:
    """The best of the items that agree in these fields of their rows, in order of appearance."""
    best: dict[tuple[Any, ...], Measured] = {}
    for item in items:
        key = tuple(getattr(item.row, field) for field in fields)
        if key not in best or cost(item) < cost(best[key]):
            best[key] = item
    return list(best.values())


def _baselines(rows: Sequence[Row]) -> Mapping[tuple[Any, ...], Row]:
    """The baseline's row per group, in full precision where it has several: the first of BASELINES
    in it, else the only other contender of all these rows."""
    others = {row.contender for row in rows if row.contender not in (OURS, CONTROL)}
    names = (*BASELINES, *(others if len(others) == 1 else ()))
    found: dict[tuple[Any, ...], Row] = {}
    for row in sorted(rows, key=lambda row: row.precision != "fp32"):
        if row.contender in names:
            known = found.setdefault(row.group, row)
            if names.index(row.contender) < names.index(known.contender):
                found[row.group] = row
    return found


def _place(measured: Measured, parts: Sequence[str]) -> tuple[Any, ...]:
    row = measured.row
    pattern = _PATTERNS.get(row.pattern, len(_PATTERNS))
    lengths = tuple(sorted(row.lengths.items()))
    condition = (lengths, row.batch, row.streams, parts.index(row.part), row.unit)
    return (pattern, row.pattern, *condition, cost(measured))
