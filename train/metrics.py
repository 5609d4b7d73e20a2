"""Figures of merit per pattern, from logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.prediction import softmax

ECE_BINS = 15
SENTIMENT = {
    "acc2_nonnegative": "Acc-2 -/0+", "acc2_positive": "Acc-2 -/+", "acc7": "Acc-7",
}  # fmt: skip
"""Figures of classes that were made of scores, and what tables call them."""
_SEVEN = (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5)


@dataclass(frozen=True)
class Scale:
    """Real-valued scores of utterances, of which classes were made, e.g. sentiment from -3 to 3."""

    edges: tuple[float, ...]
    """Between the classes, which are in the order of the scores."""
    values: NDArray[np.float64]
    """(N,)"""

    def of(self, rows: NDArray[np.integer]) -> Scale:
        """Those of some utterances."""
        return Scale(self.edges, self.values[rows])


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
    sentiment: dict[str, float] = field(default_factory=dict)
    """By the names in SENTIMENT, where the classes were made of scores."""
    null_because: dict[str, str] = field(default_factory=dict)
    """Why a figure is NaN, by its name."""

    def figure(self, name: str) -> float:
        """One of them by its name, e.g. `ua`, or `acc7` where there is one."""
        figure: float = self.sentiment[name] if name in self.sentiment else getattr(self, name)
        return figure


_FIGURES = ("wa", "ua", "f1", "ece", "confidence")
_NOTHING = "no utterance has anything of the pattern"


def measure(
    logits: NDArray[np.floating], labels: NDArray[np.integer], scale: Scale | None = None
) -> Metrics:
    """The metrics of logits (N, C) against labels (N,); scale: what those were made of."""
    classes = logits.shape[1]
    if not len(labels):
        none = math.nan
        figures = (*_FIGURES, *(SENTIMENT if scale else ()))
        return Metrics(
            none, none, none, none, none, [[0] * classes for _ in range(classes)],
            sentiment=dict.fromkeys(SENTIMENT, none) if scale else {},
            null_because=dict.fromkeys(figures, _NOTHING),
        )  # fmt: skip
    answers = logits.argmax(axis=1)
    confidence = softmax(logits).max(axis=1)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels, answers), 1)
    wa, ua, f1 = figures_of(confusion)
    sentiment, reasons = _sentiment(answers, scale) if scale else ({}, {})
    return Metrics(
        wa=wa,
        ua=ua,
        f1=f1,
        ece=_expected_calibration_error(confidence, answers == labels),
        confidence=float(confidence.mean()),
        confusion=confusion.tolist(),
        sentiment=sentiment,
        null_because=reasons,
    )


def figures_of(confusion: NDArray[np.integer]) -> tuple[float, float, float]:
    """WA, UA and F1 of counts (C, C), rows true and columns answered; NaN where there are none."""
    hits = confusion.diagonal()
    true, answered = confusion.sum(axis=1), confusion.sum(axis=0)
    seen = true > 0
    either = (true + answered) > 0
    if not seen.any():
        return math.nan, math.nan, math.nan
    return (
        float(hits.sum() / confusion.sum()),
        float((hits[seen] / true[seen]).mean()),
        float((2 * hits[either] / (true + answered)[either]).mean()),
    )


def _sentiment(
    answers: NDArray[np.integer], scale: Scale
) -> tuple[dict[str, float], dict[str, str]]:
    """Acc-2 and Acc-7 of answered classes (N,), as far as the edges tell them, and why not.

    As the literature has them: Acc-2 of negative against the rest, and against positive without
    the scores of 0; Acc-7 of scores within -3 to 3 rounded to whole numbers, halves to even.
    """
    found = dict.fromkeys(SENTIMENT, math.nan)
    reasons: dict[str, str] = {}
    edges, values = np.array(scale.edges), scale.values
    if 0.0 in scale.edges:
        positive = answers > scale.edges.index(0.0)
        found["acc2_nonnegative"] = float((positive == (values >= 0)).mean())
        some = values != 0
        if some.any():
            found["acc2_positive"] = float((positive == (values > 0))[some].mean())
        else:
            reasons["acc2_positive"] = "every score is 0"
    else:
        why = "corpus.bins has no edge at 0, between negative and positive"
        reasons |= {"acc2_nonnegative": why, "acc2_positive": why}
    if set(_SEVEN) <= set(scale.edges):
        lower = np.concatenate([[-math.inf], edges])[answers]
        answered = np.searchsorted(_SEVEN, lower, side="right")
        found["acc7"] = float((answered == np.round(values.clip(-3, 3)) + 3).mean())
    else:
        lacking = ", ".join(f"{edge:g}" for edge in _SEVEN if edge not in scale.edges)
        reasons["acc7"] = f"corpus.bins lacks the edges {lacking}, between the seven classes"
    return found, reasons


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
