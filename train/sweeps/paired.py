"""Paired differences between entries, with standard errors by bootstrap over test utterances.

The test utterances of all folds are pooled. An utterance's score under a pattern is the share of
seeds that answer it right; UA is the mean over classes of the mean score, which with whole sweeps
is the mean over seeds of the pooled macro recall. A resample draws utterances, each with all its
patterns, seeds and entries, so what is hard for both entries cancels in their difference. The
error is that of the test sample; how much training varies is in the spread over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.modality import ALL_PATTERNS, INCOMPLETE_PATTERNS
from ifmmin.train.sweeps.figures import COLUMNS
from ifmmin.train.sweeps.results import Result

RESAMPLES = 2000
_ALL_PAIRS_UP_TO = 4
_AT_ONCE = 100
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """UA of `first` minus UA of `second`."""

    first: str
    second: str
    value: dict[str, float]
    """By column."""
    error: dict[str, float]
    """Standard error, by column."""
    units: int
    """Folds x seeds that both have."""

    def stands_out(self, column: str) -> bool:
        """Whether it is more than two standard errors from zero."""
        return abs(self.value[column]) > 2 * self.error[column]


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Which entries are compared: all pairs of up to four, else the first with every other."""
    if len(names) <= _ALL_PAIRS_UP_TO:
        return list(combinations(names, 2))
    return [(names[0], other) for other in names[1:]]


def differences(
    results: Mapping[str, Sequence[Result]], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Difference]:
    """The paired differences of entries' units, by entry; pairs without common units are left
    out, and so are those that were tested on different utterances."""
    scored = []
    for first, second in pairs(list(results)):
        common = _common(results[first], results[second])
        if common and _same_utterances(common):
            scored.append((first, second, len(common), *_pool(common)))
    totals = _resampled([(a, b) for _, _, _, a, b in scored], resamples, seed)
    found = []
    for (first, second, units, mine, its), drawn in zip(scored, totals, strict=True):
        every = np.ones((1, len(mine)))
        value = (_columns(every, mine) - _columns(every, its))[0]
        error = drawn.std(axis=0, ddof=1)
        found.append(Difference(first, second, _by_column(value), _by_column(error), units))
    return found


Common = list[tuple[Result, Result]]


def _common(first: Sequence[Result], second: Sequence[Result]) -> Common:
    other = {(r.unit.fold, r.unit.seed): r for r in second}
    keys = ((r, (r.unit.fold, r.unit.seed)) for r in first)
    return [(r, other[key]) for r, key in keys if key in other]


def _same_utterances(common: Common) -> bool:
    return all(
        a.labels == b.labels
        and a.answers.names == b.answers.names
        and np.array_equal(a.answers.true, b.answers.true)
        for a, b in common
    )


def _pool(common: Common) -> tuple[Array, Array]:
    """Of both sides: score and presence by class and pattern, (N, 2, C, P), folds in order.

    [:, 0] is the score in the utterance's own class and 0 elsewhere, [:, 1] its weight there.
    """
    folds = sorted({a.unit.fold for a, _ in common})
    sides = []
    for side in (0, 1):
        parts = []
        for fold in folds:
            units = [pair[side] for pair in common if pair[side].unit.fold == fold]
            parts.append(_fold_scores(units))
        sides.append(np.concatenate(parts))
    return sides[0], sides[1]


def _fold_scores(units: Sequence[Result]) -> Array:
    first = units[0].answers
    right = np.mean([u.answers.answered == u.answers.true[:, None] for u in units], axis=0)
    seen = (first.answered >= 0).astype(np.float64)
    own = np.eye(len(units[0].labels))[first.true]
    return np.stack([right, seen], axis=1)[:, :, None, :] * own[:, None, :, None]


def _columns(weights: Array, scores: Array) -> Array:
    """UA by column (R, 8) when utterances (N) weigh `weights` (R, N); scores: (N, 2, C, P)."""
    _, _, classes, patterns = scores.shape
    sums = (weights @ scores.reshape(len(scores), -1)).reshape(-1, 2, classes, patterns)
    with np.errstate(invalid="ignore"):
        recall = sums[:, 0] / sums[:, 1]
    seen = np.isfinite(recall)
    ua = np.where(seen, recall, 0.0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    six = ua[:, : len(INCOMPLETE_PATTERNS)].mean(axis=1, keepdims=True)
    return np.concatenate([ua, six], axis=1)


def _resampled(scored: Sequence[tuple[Array, Array]], resamples: int, seed: int) -> list[Array]:
    """Differences (resamples, 8) of each pair; pairs of one size share their draws."""
    found: list[list[Array]] = [[] for _ in scored]
    for size in dict.fromkeys(len(mine) for mine, _ in scored):
        draws = np.random.default_rng(seed)
        for start in range(0, resamples, _AT_ONCE):
            count = min(_AT_ONCE, resamples - start)
            rows = draws.integers(size, size=(count, size))
            weights = np.stack([np.bincount(row, minlength=size) for row in rows]).astype(float)
            for (mine, its), collected in zip(scored, found, strict=True):
                if len(mine) == size:
                    collected.append(_columns(weights, mine) - _columns(weights, its))
    return [np.concatenate(collected) for collected in found]


def _by_column(row: Array) -> dict[str, float]:
    assert len(row) == len(ALL_PATTERNS) + 1
    return dict(zip(COLUMNS, row.tolist(), strict=True))
