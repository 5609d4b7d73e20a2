"""What the finished units of a sweep say, read back from their runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import OutputError
from ifmmin.runtime.modality import ALL_PATTERNS, Pattern
from ifmmin.train.run import HISTORY_NAME, METRICS_NAME, PREDICTIONS_NAME
from ifmmin.train.sweeps.folder import SweepFolder
from ifmmin.train.sweeps.plan import Unit


@dataclass(frozen=True)
class Answers:
    """A unit's answers to its fold's test part."""

    names: tuple[str, ...]
    """The utterances."""
    true: NDArray[np.int64]
    """Their classes (N,)."""
    answered: NDArray[np.int64]
    """Classes (N, P) by pattern, in the order of ALL_PATTERNS; -1 where there was nothing to go
    by."""


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
    run: Path

    def test(self, pattern: Pattern) -> dict[str, Any]:
        """The figures of a pattern on the test part."""
        figures: dict[str, Any] = self.metrics["test"][str(pattern)]
        return figures


def read_results(folder: SweepFolder, units: Iterable[Unit]) -> list[Result]:
    """Every finished unit, in the order of `units`. Raises OutputError for a damaged run."""
    return [_read(folder.path(unit), unit) for unit in units if folder.finished(unit)]


def _read(run: Path, unit: Unit) -> Result:
    try:
        metrics = json.loads((run / METRICS_NAME).read_text("utf-8"))
        labels, answers = _read_answers(run / PREDICTIONS_NAME)
        return Result(unit, metrics, _read_history(run / HISTORY_NAME), labels, answers, run)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise OutputError(
            f"the run of {unit} is damaged ({type(error).__name__}: {error}); "
            f"remove {run} and call again"
        ) from error


def _read_history(path: Path) -> list[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: float(text) for name, text in row.items() if text}
            for row in csv.DictReader(file)
        ]


def _read_answers(path: Path) -> tuple[tuple[str, ...], Answers]:
    column = {str(pattern): index for index, pattern in enumerate(ALL_PATTERNS)}
    true: dict[str, int] = {}
    found: list[tuple[str, int, int]] = []
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        labels = tuple(next(rows)[4:])
        position = {label: index for index, label in enumerate(labels)}
        for name, pattern, label, answer, *_ in rows:
            true[name] = position[label]
            found.append((name, column[pattern], position[answer]))
    row_of: Mapping[str, int] = {name: row for row, name in enumerate(true)}
    answered = np.full((len(true), len(ALL_PATTERNS)), -1, dtype=np.int64)
    for name, pattern_column, answer_class in found:
        answered[row_of[name], pattern_column] = answer_class
    return labels, Answers(tuple(true), np.array(list(true.values()), dtype=np.int64), answered)
