"""Rounding of weights to few bits so that products change least, not the weights themselves.

GPTQ (Frantar et al., ICLR 2023): weights are rounded one input after the other, and what is lost
by that is made up for by the weights of the inputs that follow, as far as calibration data show
these to go together. In embeddings they do: what all weights lose falls to a quarter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifmmin.export.moments import Moments

DAMPINGS = (0.1, 0.03, 0.3, 0.01, 0.5)
"""Of the mean second moment, added to each: inputs that calibration data do not show have a size
too. The paper has 0.01 for many thousand rows; a head sees one row an utterance. By what products
lose all of them are as good; which answers turn that are ties but for a thousandth, differs."""
_BLOCK = 128
"""Inputs after which the others are brought up to date, by one product."""


@dataclass(frozen=True)
class Grid:
    """Levels that weights may take: weight = (level - zero) * scale, one of each per output."""

    scale: NDArray[np.floating]
    """(N,)"""
    zero: NDArray[np.integer]
    """(N,)"""
    lowest: int
    highest: int

    def nearest(self, weights: NDArray[np.floating]) -> NDArray[np.floating]:
        """Levels of weights (..., N)."""
        levels = np.rint(weights / self.scale) + self.zero
        return np.asarray(np.clip(levels, self.lowest, self.highest), dtype=np.float64)

    def weights(self, levels: NDArray[np.floating]) -> NDArray[np.floating]:
        """What levels (..., N) stand for."""
        return np.asarray((levels - self.zero) * self.scale)


class Rounding:
    """Rounds the weights of one graph by what they multiply; each weight once per grid's range.

    number: which of DAMPINGS it has.
    """

    def __init__(self, moments: Moments, number: int = 0) -> None:
        self._moments = moments
        self._damping = DAMPINGS[number]
        self._known: dict[tuple[str, int], NDArray[np.floating]] = {}
        self._others: dict[int, Rounding] = {number: self}

    def other(self, number: int) -> Rounding:
        """The one with another damping, or itself."""
        if number not in self._others:
            made = self._others[number] = Rounding(self._moments, number)
            made._others = self._others
        return self._others[number]

    def levels(self, name: str, weight: NDArray[np.floating], grid: Grid) -> NDArray[np.floating]:
        """Levels (K, N) of the weight of that name; the nearest where nothing is known of it."""
        key = name, grid.highest
        if key not in self._known:
            moment = self._moments.of(name)
            self._known[key] = (
                grid.nearest(weight)
                if moment is None
                else round_to_grid(weight, moment, grid, self._damping)
            )
        return self._known[key]


def round_to_grid(
    weight: NDArray[np.floating],
    moment: NDArray[np.float64],
    grid: Grid,
    damping: float = DAMPINGS[0],
) -> NDArray[np.floating]:
    """Levels (K, N) of a weight (K, N) whose inputs have the second moment (K, K).

    The largest inputs go first, while there are others left to make up for them.
    """
    order = np.argsort(-np.diag(moment), kind="stable")
    factor = _factor(moment[np.ix_(order, order)], damping)
    rest = weight.astype(np.float64)[order]
    levels = np.empty_like(rest)
    for first in range(0, len(rest), _BLOCK):
        block = rest[first : first + _BLOCK]
        last = first + len(block)
        lost = np.empty_like(block)
        for row, values in enumerate(block):
            at = first + row
            levels[at] = grid.nearest(values)
            lost[row] = (values - grid.weights(levels[at])) / factor[at, at]
            block[row + 1 :] -= np.outer(factor[at, at + 1 : last], lost[row])
        rest[last:] -= factor[first:last, last:].T @ lost
    return levels[np.argsort(order)]


def _factor(moment: NDArray[np.float64], damping: float) -> NDArray[np.float64]:
    """Upper Cholesky factor of the inverse: row k holds how later inputs make up for input k."""
    mean = float(np.diag(moment).mean())
    damped = moment + np.eye(len(moment)) * (damping * mean if mean > 0 else 1.0)
    return np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(damped)).T)
