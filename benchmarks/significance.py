"""What chance would do: tails of Student's distribution, and many tests without false alarms.

numpy has no distributions and the runtime's wheels bring no scipy; these few lines are held equal
to scipy's in a test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_STEPS = 300
_LARGEST_DEGREES = 1e4
"""From here on Student's distribution is the normal one to four digits."""


@dataclass(frozen=True)
class Step:
    """Where one test stands in Holm's procedure."""

    rejected: bool
    alpha: float
    """The level at which it was tested."""


def student_tail(value: float, degrees: float) -> float:
    """Probability that Student's t with `degrees` of freedom lies above `value`.

    By t = sqrt(degrees) tan(x) the density becomes cos(x) ** (degrees - 1) on a finite range.
    """
    degrees = min(degrees, _LARGEST_DEGREES)
    if value < 0:
        return 1.0 - student_tail(-value, degrees)
    start = np.arctan(value / np.sqrt(degrees))
    whole = _cosine_integral(0.0, degrees)
    return float(0.5 * _cosine_integral(start, degrees) / whole)


def student_quantile(tail: float, degrees: float) -> float:
    """The value above which Student's t lies with probability `tail`, below one half."""
    low, high = 0.0, 1.0
    while student_tail(high, degrees) > tail:
        low, high = high, 2.0 * high
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if student_tail(middle, degrees) > tail else (low, middle)
    return 0.5 * (low + high)


def holm(tails: Sequence[float], alpha: float) -> list[Step]:
    """Test many hypotheses; the chance of any false alarm among them stays below `alpha`.

    Holm, A simple sequentially rejective multiple test procedure, 1979: the smallest probability is
    held against alpha / m, the next against alpha / (m - 1), until one fails; it needs no
    independence, and is never weaker than Bonferroni's. The rate of false discoveries (Benjamini
    and Hochberg) would let some false alarms pass, and an alarm here stops somebody's work.
    """
    steps = [Step(False, alpha)] * len(tails)
    passing, level = True, alpha
    for rank, index in enumerate(np.argsort(np.asarray(tails), kind="stable")):
        if passing:
            level = alpha / (len(tails) - rank)
            passing = tails[index] <= level
        steps[index] = Step(passing, level)
    return steps


def _cosine_integral(start: float, degrees: float) -> float:
    """Integral of cos(x) ** (degrees - 1) from `start` to pi / 2, by Simpson's rule."""
    power = degrees - 1.0
    # Beyond `reach` the integrand is far below what matters of it at the start.
    reach = min(math.pi / 2, start + 12.0 / math.sqrt(max(1.0, power)))
    angles = np.linspace(start, reach, _STEPS + 1)
    values = np.exp(power * np.log(np.maximum(np.cos(angles), 1e-300)))
    inner = 4.0 * values[1:-1:2].sum() + 2.0 * values[2:-1:2].sum()
    return float((values[0] + inner + values[-1]) * (reach - start) / (3 * _STEPS))
