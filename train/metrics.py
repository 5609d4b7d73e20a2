"""Figures of merit per pattern, from logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.prediction import softmax

ECE_BINS = 15


@dataclass(frozen=True)
class Metrics:
    """How well some logits say some labels. All but the confusion are in [0, 1]; NaN, null in JSON,
    where there was nothing to measure."""

    wa: float
    """Weighted accuracy: the share of right answers."""
    ua: float
    """Unweighted accuracy: the mean recall over the classes that occur."""
    f1: float
    """Macro F1 over the classes that occur or are answered."""
    ece: float
    """Expected calibration error of the winning class, 15 equal bins."""
    confidence: float
    """Mean probability of the winning class; above `wa` a model is over-confident."""
    confusion: list[list[int]]
    """Counts, rows true and columns answered."""


def measure(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Metrics:
    """The metrics of logits (N, C) against labels (N,)."""
    classes = logits.shape[1]
    if not len(labels):
        none = math.nan
        return Metrics(none, none, none, none, none, [[0] * classes for _ in range(classes)])
    answers = logits.argmax(axis=1)
    confidence = softmax(logits).max(axis=1)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels, answers), 1)
    hits = confusion.diagonal()
    true, answered = confusion.sum(axis=1), confusion.sum(axis=0)
    seen = true > 0
    either = (true + answered) > 0
    return Metrics(
        wa=float(hits.sum() / confusion.sum()),
        ua=float((hits[seen] / true[seen]).mean()),
        f1=float((2 * hits[either] / (true + answered)[either]).mean()),
        ece=_expected_calibration_error(confidence, answers == labels),
        confidence=float(confidence.mean()),
        confusion=confusion.tolist(),
    )


def mean_of_measured(figures: Sequence[float]) -> float:
    """The mean of the figures that could be measured; NaN where none could."""
    measured = [figure for figure in figures if not math.isnan(figure)]
    return float(np.mean(measured)) if measured else math.nan


def shown(figure: float, form: str = ".3f") -> str:
    """A figure in a table; a dash where there was nothing to measure."""
    return "-" if math.isnan(figure) else format(figure, form)


def log_loss(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Mean negative log-likelihood, in nats, of labels (N,) under logits (N, C)."""
    chosen = softmax(logits)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, 1e-300)).mean())


def _expected_calibration_error(
    confidence: NDArray[np.floating], right: NDArray[np.bool_]
) -> float:
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gap = np.bincount(bins, weights=right - confidence, minlength=ECE_BINS)
    return float(np.abs(gap).sum() / len(right))
