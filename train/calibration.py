"""Temperatures, fitted on validation data after training.

A network answers with fewer modalities present about as surely as with all, and is right less
often; the temperature of a pattern (Guo et al. 2017) makes its probabilities mean what they say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Pattern
from ifmmin.train.evaluate import Embedded, score
from ifmmin.train.metrics import log_loss
from ifmmin.train.network import EmotionNetwork

_RANGE = (0.05, 20.0)
_LEAST_UTTERANCES = 20
"""Fewer give no temperature: it would be noise."""


def calibrate(
    network: EmotionNetwork, embedded: Embedded, labels: NDArray[np.int64]
) -> Mapping[Pattern, float]:
    """Fit the temperatures on held-out utterances with `labels` (N,), and set them.

    A pattern is fitted on the utterances that have all of its modalities; where there are fewer
    than 20, its temperature stays 1.
    """
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


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The temperature in [0.05, 20] that makes logits (N, C) say labels (N,) most likely."""
    exact = logits.astype(np.float64)

    def surprise(log_temperature: float) -> float:
        return log_loss(exact / np.exp(log_temperature), labels)

    found: Any = minimize_scalar(surprise, bounds=np.log(_RANGE), method="bounded")
    return float(np.exp(found.x))
