"""Numbers for a reader: one unit for a whole column, three digits that count."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

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
