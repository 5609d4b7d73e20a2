"""Everything that is measured of a trained network, as it stands in metrics.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.modality import Pattern
from ifmmin.train.calibration import calibrate, temperatures
from ifmmin.train.corpus import Corpus
from ifmmin.train.evaluate import Embedded, Scores, embed, labels_of, measure_scores, score
from ifmmin.train.health import examine
from ifmmin.train.metrics import Metrics, measure
from ifmmin.train.network import EmotionNetwork


@dataclass(frozen=True)
class Report:
    """What is known of a trained network."""

    test: dict[Pattern, Metrics]
    """Calibrated, on the test part."""
    scores: dict[Pattern, Scores]
    """Calibrated logits on the test part."""
    embedded: Embedded
    """The test part after the encoders."""
    metrics: dict[str, Any]
    """All figures, as metrics.json holds them."""


def report(network: EmotionNetwork, corpus: Corpus) -> Report:
    """Calibrate on the validation part, then measure both parts; the test part is scored once."""
    held_out, test = corpus.parts["validation"], corpus.parts["test"]
    validation = embed(network, held_out)
    calibrate(network, validation, labels_of(held_out))
    embedded = embed(network, test)
    scores = score(network, embedded)
    figures = measure_scores(scores, labels_of(test))
    metrics: dict[str, Any] = {
        "test": _by_pattern(figures, _before(scores, labels_of(test)), network),
        "validation": _by_pattern(
            measure_scores(score(network, validation), labels_of(held_out)), {}, network
        ),
        "health": examine(network, validation),
    }
    if corpus.possible:
        metrics["possible"] = {str(p): value for p, value in corpus.possible.items()}
    return Report(figures, scores, embedded, metrics)


def _before(scores: Mapping[Pattern, Scores], labels: NDArray[np.int64]) -> dict[Pattern, Metrics]:
    """Metrics of the same answers without calibration."""
    return {pattern: measure(found.raw, labels[found.rows]) for pattern, found in scores.items()}


def _by_pattern(
    metrics: Mapping[Pattern, Metrics], raw: Mapping[Pattern, Metrics], network: EmotionNetwork
) -> dict[str, Any]:
    factors = temperatures(network)
    entries: dict[str, Any] = {}
    for pattern, value in metrics.items():
        entry = dataclasses.asdict(value) | {"temperature": factors[pattern]}
        if pattern in raw:
            entry["ece_uncalibrated"] = raw[pattern].ece
            entry["confidence_uncalibrated"] = raw[pattern].confidence
        entries[str(pattern)] = entry
    return entries
