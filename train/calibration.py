"""What is fitted on validation data after training: temperatures, and the gate of the classifier.

A network answers with fewer modalities present about as surely as with all, and is right less
often; the temperature of a pattern (Guo et al. 2017) makes its probabilities mean what they say.
Where there is evidence, the gate says how much the classifier, and so imagination, adds to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Pattern
from ifmmin.train.evaluate import Embedded, Scores, score
from ifmmin.train.metrics import log_loss
from ifmmin.train.network import EmotionNetwork

_RANGE = (0.05, 20.0)
_LEAST_UTTERANCES = 20
"""Fewer give no temperature: it would be noise."""


def calibrate(
    network: EmotionNetwork, embedded: Embedded, labels: NDArray[np.int64]
) -> Mapping[Pattern, float]:
    """Fit gate and temperatures on held-out utterances with `labels` (N,), and set them.

    A pattern is fitted on the utterances that have all of its modalities; where there are fewer
    than 20, its temperature stays 1.
    """
    if embedded.evidence is not None:
        network.gate.fill_(fit_gate(network, embedded, labels))
    scores = score(network, embedded)
    present = embedded.present.numpy()
    for index, pattern in enumerate(ALL_PATTERNS):
        found = scores[pattern]
        inside = [MODALITIES.index(m) for m in pattern]
        whole = present[found.rows][:, inside].all(axis=1)
        enough = whole.sum() >= _LEAST_UTTERANCES
        network.temperatures[index] = (
            fit_temperature(found.raw[whole], labels[found.rows][whole]) if enough else 1.0
        )
    return temperatures(network)


def temperatures(network: EmotionNetwork) -> dict[Pattern, float]:
    """The network's temperature of every pattern."""
    values: list[float] = network.temperatures.tolist()
    return dict(zip(ALL_PATTERNS, values, strict=True))


def fit_gate(network: EmotionNetwork, embedded: Embedded, labels: NDArray[np.int64]) -> float:
    """The gate in [0, 1] that makes the labels most likely under all patterns together."""
    without, whole = (_with_gate(network, embedded, gate) for gate in (0.0, 1.0))

    def surprise(gate: float) -> float:
        return sum(
            log_loss(alone.raw + gate * (whole[pattern].raw - alone.raw), labels[alone.rows])
            for pattern, alone in without.items()
        )

    return _minimum(surprise, (0.0, 1.0))


def _with_gate(network: EmotionNetwork, embedded: Embedded, gate: float) -> dict[Pattern, Scores]:
    before = float(network.gate)
    network.gate.fill_(gate)
    scores = score(network, embedded)
    network.gate.fill_(before)
    return scores


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The temperature in [0.05, 20] that makes logits (N, C) say labels (N,) most likely."""
    exact = logits.astype(np.float64)

    def surprise(log_temperature: float) -> float:
        return log_loss(exact / np.exp(log_temperature), labels)

    low, high = np.log(_RANGE)
    return float(np.exp(_minimum(surprise, (low, high))))


def _minimum(function: Callable[[float], float], bounds: tuple[float, float]) -> float:
    found: Any = minimize_scalar(function, bounds=bounds, method="bounded")
    return float(found.x)
