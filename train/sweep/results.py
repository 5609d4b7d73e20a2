"""Results of a sweep's finished units: mean, spread and paired differences of every metric.

Standard errors are by bootstrap over test utterances; blind networks are listed.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError, OutputError, one_line
from ifmmin.runtime.files import JSON_ERRORS, read_regular
from ifmmin.runtime.modality import MODALITIES, Pattern, incomplete_patterns, patterns_of

from ..evaluate import LEAST_ACTIVE, LEAST_DIMENSIONS, Point, read_projection, read_table
from ..metrics import figures_of
from ..trainer import HISTORY_NAME, METRICS_NAME, PREDICTIONS_NAME, PROJECTION_NAME
from .plan import SweepFolder, Unit


@dataclass(frozen=True)
class Answers:
    """A unit's answers to its fold's test part."""

    names: tuple[str, ...]
    """The utterances."""
    true: NDArray[np.int64]
    """Their classes (N,)."""
    answered: NDArray[np.int64]
    """Classes (N, P) by pattern, in the unit's order; -1 where there was nothing to go by."""


@dataclass(frozen=True)
class Result:
    """A finished unit."""

    unit: Unit
    metrics: dict[str, Any]
    """As metrics.json has them."""
    history: list[dict[str, float]]
    """A row per epoch, without the columns that do not apply."""
    labels: tuple[str, ...]
    answers: Answers
    points: list[Point]
    """Of the projection, where there is one."""

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """All of the unit's modalities, in the order of tables."""
        return _patterns(self.metrics["test"])

    def test(self, pattern: Pattern) -> dict[str, Any]:
        """The figures of a pattern on the test part."""
        figures: dict[str, Any] = self.metrics["test"][str(pattern)]
        return figures


def read_results(folder: SweepFolder, units: Iterable[Unit]) -> list[Result]:
    """Every finished unit, in the order of `units`. Raises OutputError for a damaged run."""
    return [_read(folder.path(unit), unit) for unit in units if folder.finished(unit)]


class _Figures(msgspec.Struct):
    """What a report reads of a pattern's figures."""

    confusion: list[list[int]]
    temperature: float
    wa: float | None
    ua: float | None
    f1: float | None
    ece: float | None
    confidence: float | None
    ece_uncalibrated: float | None
    confidence_uncalibrated: float | None


class _Metrics(msgspec.Struct):
    """What a report reads of metrics.json."""

    test: dict[str, _Figures]
    health: dict[str, dict[str, float]]
    possible: dict[str, float] = {}


def _patterns(figures: Iterable[str]) -> tuple[Pattern, ...]:
    """All patterns of the modalities that are named; ValueError where one is lacking."""
    named = {str(Pattern.parse(name)) for name in figures}
    found = patterns_of({m for name in named for m in Pattern.parse(name)})
    if named != {str(pattern) for pattern in found}:
        raise ValueError("figures of all patterns are wanted")
    return found


def _read(run: Path, unit: Unit) -> Result:
    try:
        metrics = msgspec.json.decode(read_regular(run / METRICS_NAME, OutputError))
        known = msgspec.convert(metrics, _Metrics)
        labels, answers = _read_answers(run / PREDICTIONS_NAME, _patterns(known.test))
        _require_figures(known, len(labels))
        history = _read_history(run / HISTORY_NAME)
        points = read_projection(run / PROJECTION_NAME)
    except (
        OSError, ValueError, KeyError, StopIteration, csv.Error, InputError, *JSON_ERRORS,
    ) as error:  # fmt: skip
        raise OutputError(
            f"the run of {unit} is damaged ({type(error).__name__}: {one_line(error)}); "
            f"remove {run} and call again"
        ) from error
    return Result(unit, metrics, history, labels, answers, points)


def _require_figures(metrics: _Metrics, classes: int) -> None:
    """ValueError where a pattern has no figures, or those of another number of classes."""
    if set(metrics.possible) not in (set(), set(metrics.test)):
        raise ValueError("figures of all patterns are wanted")
    for figures in metrics.test.values():
        if [len(row) for row in figures.confusion] != [classes] * classes:
            raise ValueError(f"a confusion of {classes} classes is wanted")


def _read_history(path: Path) -> list[dict[str, float]]:
    columns, *rows = read_table(path) or [[]]
    return [
        {name: float(text) for name, text in zip(columns, row, strict=True) if text} for row in rows
    ]


def _read_answers(path: Path, patterns: Sequence[Pattern]) -> tuple[tuple[str, ...], Answers]:
    column = {str(pattern): index for index, pattern in enumerate(patterns)}
    true: dict[str, int] = {}
    found: list[tuple[str, int, int]] = []
    rows = iter(read_table(path))
    labels = tuple(next(rows)[4:])
    position = {label: index for index, label in enumerate(labels)}
    for name, pattern, label, answer, *_ in rows:
        true[name] = position[label]
        found.append((name, column[pattern], position[answer]))
    if not found:
        raise ValueError("it has no answers")
    row_of: Mapping[str, int] = {name: row for row, name in enumerate(true)}
    answered = np.full((len(true), len(patterns)), -1, dtype=np.int64)
    for name, pattern_column, answer_class in found:
        answered[row_of[name], pattern_column] = answer_class
    return labels, Answers(tuple(true), np.array(list(true.values()), dtype=np.int64), answered)


FIGURES = ("ua", "wa", "f1", "ece")
_WORDS = {6: "six", 2: "two", 1: "one"}


def mean_name(incomplete: Sequence[Pattern]) -> str:
    """What tables call the mean over these patterns."""
    return f"mean of {_WORDS[len(incomplete)]}"


POOLED = "all their answers as one set, as papers average (another F1)"


def pooled_name(incomplete: Sequence[Pattern]) -> str:
    """What tables call the figures of all answers under these patterns as one set."""
    return f"pooled {_WORDS[len(incomplete)]}"


def columns_of(patterns: Sequence[Pattern]) -> tuple[str, ...]:
    """All patterns of some modalities, then the mean over the incomplete ones."""
    return (*map(str, patterns), mean_name(patterns[:-1] or patterns))


def pooled(results: Sequence[Result]) -> dict[str, float]:
    """WA, UA and F1 of a unit's answers under the incomplete patterns as one set, mean over the
    units."""
    some = incomplete_patterns({m for pattern in results[0].patterns for m in pattern})
    counts = [np.sum([r.test(p)["confusion"] for p in some], axis=0) for r in results]
    means = measured_mean(np.array([figures_of(confusion) for confusion in counts]), 0)
    return dict(zip(("wa", "ua", "f1"), means.tolist(), strict=True))


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
    """How many have utterances of the pattern."""

    @property
    def shown(self) -> float:
        """The deviation for tables: over seeds where there are several, else over units."""
        return self.over_units if math.isnan(self.over_seeds) else self.over_seeds


def values(results: Sequence[Result], figure: str) -> NDArray[np.float64]:
    """A figure of units (U, P + 1): the patterns and the mean of the incomplete ones, or of those
    that a unit's test part has utterances of; NaN where there is nothing to measure."""
    rows = [[r.test(p)[figure] for p in r.patterns] for r in results]
    table = np.array(rows, dtype=np.float64)  # null, where there was nothing to measure, is NaN
    return _with_mean(table)


def _with_mean(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """A column more: the mean over the incomplete patterns, as far as they are measured."""
    incomplete = max(1, table.shape[1] - 1)
    mean = measured_mean(table[:, :incomplete], 1)
    return np.concatenate([table, mean[:, None]], axis=1)


def measured_mean(table: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The mean over what is no NaN; NaN where all is."""
    known = ~np.isnan(table)
    counts = known.sum(axis=axis)
    sums = np.where(known, table, 0.0).sum(axis=axis)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _measured_deviation(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The deviation (n - 1) of columns over what is no NaN; NaN where that is fewer than two."""
    return np.array(
        [
            known.std(ddof=1) if len(known := column[~np.isnan(column)]) > 1 else np.nan
            for column in table.T
        ]
    )


def spreads(results: Sequence[Result], figure: str) -> dict[str, Spread]:
    """A figure of one entry's units, by column.

    A seed counts in `over_seeds` when it has every fold that any seed has: means over different
    folds do not compare.
    """
    table, columns = values(results, figure), columns_of(results[0].patterns)
    seeds = np.array([r.unit.seed for r in results])
    folds = {r.unit.fold for r in results}
    whole = [s for s in np.unique(seeds) if (seeds == s).sum() == len(folds)]
    by_seed = np.array([measured_mean(table[seeds == seed], 0) for seed in whole])
    numbers = zip(
        measured_mean(table, 0).tolist(),
        _measured_deviation(by_seed.reshape(-1, len(columns))).tolist(),
        _measured_deviation(table).tolist(),
        (~np.isnan(table)).sum(axis=0).tolist(),
        strict=True,
    )
    return {column: Spread(*found) for column, found in zip(columns, numbers, strict=True)}


def possible(results: Sequence[Result]) -> dict[str, float] | None:
    """Accuracy of the Bayes rule by column, mean over the units; None where it is not known."""
    if not all("possible" in result.metrics for result in results):
        return None
    patterns = results[0].patterns
    rows = np.array([[r.metrics["possible"][str(p)] for p in patterns] for r in results])
    means = _with_mean(rows.mean(axis=0, keepdims=True))[0]
    return dict(zip(columns_of(patterns), means.tolist(), strict=True))


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
        error = _measured_deviation(drawn)
        columns = columns_of(results[first][0].patterns)
        means, errors = (dict(zip(columns, x.tolist(), strict=True)) for x in (value, error))
        found.append(Difference(first, second, means, errors, units))
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
    """UA by column (R, P + 1) when utterances (N) weigh `weights` (R, N); scores: (N, 2, C, P)."""
    _, _, classes, patterns = scores.shape
    sums = (weights @ scores.reshape(len(scores), -1)).reshape(-1, 2, classes, patterns)
    with np.errstate(invalid="ignore"):
        recall = sums[:, 0] / sums[:, 1]
    return _with_mean(measured_mean(recall, 1))


def _resampled(scored: Sequence[tuple[Array, Array]], resamples: int, seed: int) -> list[Array]:
    """Differences (resamples, P + 1) of each pair; pairs of one size share their draws."""
    found: list[list[Array]] = [[] for _ in scored]
    for size in dict.fromkeys(len(mine) for mine, _ in scored):
        for weights in resampled_weights(size, resamples, seed):
            for (mine, its), collected in zip(scored, found, strict=True):
                if len(mine) == size:
                    collected.append(_columns(weights, mine) - _columns(weights, its))
    return [np.concatenate(collected) for collected in found]


def resampled_weights(size: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each of `size` utterances is in each resample, some resamples (R, size) at once."""
    draws = np.random.default_rng(seed)
    for start in range(0, resamples, _AT_ONCE):
        count = min(_AT_ONCE, resamples - start)
        rows = draws.integers(size, size=(count, size))
        yield np.stack([np.bincount(row, minlength=size) for row in rows]).astype(float)


def warnings(results: Sequence[Result]) -> list[str]:
    """A line for every weakness that units of one entry have."""
    lines = []
    for modality in MODALITIES:
        entries = [r.metrics.get("health", {}).get(modality.value, {}) for r in results]
        for what, figure, least in (
            ("dead embedding", "active", LEAST_ACTIVE),
            ("collapsed invariant features", "invariant_dimensions", LEAST_DIMENSIONS),
        ):
            weak = [e[figure] for e in entries if e.get(figure, least) < least]
            if weak:
                lines.append(
                    f"{modality.word}: {what} in {len(weak)} of {len(results)} units "
                    f"({figure} {min(weak):.2f} at worst, wanted {least} or more)"
                )
    return lines
