"""Axes: from values to pixels, and round numbers to write beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_WIDE_RANGE = 20.0
"""From this ratio of the largest to the smallest value on, an axis of ratios is the legible one."""


@dataclass(frozen=True)
class Axis:
    """A straight or logarithmic scale between two values, onto pixels."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`."""
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Pixel of a value."""
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round values on the axis, at most about `most`."""
        return self._round_powers(most) if self.logarithmic else _steps(self.low, self.high, most)

    def _round_powers(self, most: int) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [digit * 10.0**decade for decade in decades for digit in digits]
            found = [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]
            if len(found) <= most:
                break
        return found if len(found) > 1 else [self.low, self.high]


def axis_of(
    values: Iterable[float], start: float, end: float, *, from_zero: bool, room: float = 1.05
) -> Axis:
    """An axis on which all values have a place.

    Straight from zero where that is legible, else of ratios. room: how far it goes on past the
    largest value.
    """
    known = sorted(values)
    smallest, largest = known[0], known[-1]
    if smallest > 0 and largest / smallest > _WIDE_RANGE:
        return Axis(smallest / 1.15, largest * 1.15, start, end, logarithmic=True)
    if from_zero:
        return Axis(0.0, (largest or 1.0) * room, start, end)
    margin = 0.08 * (largest - smallest) or 0.05 * (largest or 1.0)
    return Axis(smallest - margin, largest + margin, start, end)


def exact_ticks(axis: Axis, values: Iterable[float], gap: float) -> list[float]:
    """The measured values themselves, as far as they stand `gap` pixels apart, the last kept."""
    kept: list[float] = []
    for value in sorted(set(values), reverse=True):
        if not kept or abs(axis.at(kept[-1]) - axis.at(value)) >= gap:
            kept.append(value)
    return kept[::-1]


def _steps(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within low..high."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(f * power for f in (1, 2, 5, 10, 20) if (high - low) / (f * power) <= most)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]
