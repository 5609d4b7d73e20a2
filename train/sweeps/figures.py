"""Mean and spread of every figure, per entry and pattern."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.modality import ALL_PATTERNS, INCOMPLETE_PATTERNS
from ifmmin.train.sweeps.results import Result

FIGURES = ("ua", "wa", "f1", "ece")
MEAN_OF_SIX = "mean of six"
COLUMNS = (*(str(pattern) for pattern in ALL_PATTERNS), MEAN_OF_SIX)
"""The seven patterns, then the mean over the six incomplete ones."""


@dataclass(frozen=True)
class Spread:
    """One figure of an entry under one pattern, over its units."""

    mean: float
    """Over all units."""
    over_seeds: float
    """Deviation (n - 1) over seeds of the mean over folds; nan with fewer than two whole seeds."""
    over_units: float
    """Deviation (n - 1) over all units; nan with a single one."""
    units: int

    @property
    def shown(self) -> float:
        """The deviation for tables: over seeds where there are several, else over units."""
        return self.over_units if math.isnan(self.over_seeds) else self.over_seeds


def values(results: Sequence[Result], figure: str) -> NDArray[np.float64]:
    """A figure of units (U, 8): the seven patterns and the mean of the six incomplete ones."""
    table = np.array([[r.test(p)[figure] for p in ALL_PATTERNS] for r in results])
    six = table[:, : len(INCOMPLETE_PATTERNS)].mean(axis=1, keepdims=True)
    return np.concatenate([table, six], axis=1)


def spreads(results: Sequence[Result], figure: str) -> dict[str, Spread]:
    """A figure of one entry's units, by column.

    A seed counts in `over_seeds` when it has every fold that any seed has: means over different
    folds do not compare.
    """
    table = values(results, figure)
    seeds = np.array([r.unit.seed for r in results])
    folds = {r.unit.fold for r in results}
    whole = [s for s in np.unique(seeds) if (seeds == s).sum() == len(folds)]
    by_seed = np.array([table[seeds == seed].mean(axis=0) for seed in whole])
    found = {}
    for index, column in enumerate(COLUMNS):
        over_seeds = float(by_seed[:, index].std(ddof=1)) if len(whole) > 1 else math.nan
        over_units = float(table[:, index].std(ddof=1)) if len(table) > 1 else math.nan
        mean = float(table[:, index].mean())
        found[column] = Spread(mean, over_seeds, over_units, len(table))
    return found


def possible(results: Sequence[Result]) -> dict[str, float] | None:
    """Accuracy of the Bayes rule by column, mean over the units; None where it is not known."""
    if not all("possible" in result.metrics for result in results):
        return None
    rows = [[r.metrics["possible"][str(p)] for p in ALL_PATTERNS] for r in results]
    means = [float(value) for value in np.mean(rows, axis=0)]
    six = float(np.mean(means[: len(INCOMPLETE_PATTERNS)]))
    return dict(zip(COLUMNS, [*means, six], strict=True))
