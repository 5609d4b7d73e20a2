"""Proof that a graph says what its network says: a comparison with figures, not a yes or no."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.train.metrics import softmax

TOLERANCE = 1e-4
"""Largest difference of a logit that a float32 graph may show; 2e-5 is typical."""
ROUNDING = 5e-6
"""The same as a share of a probe's largest logit, where that is more: float32 knows no better.
It matters above logits of 20, as where a pooling sums over long inputs."""


@dataclass(frozen=True)
class Comparison:
    """A graph against its network in float64, over some probes."""

    max_difference: float
    """Largest absolute difference of a logit."""
    mean_difference: float
    excess: float
    """Largest difference of a logit over what float32 is allowed for its probe: TOLERANCE, or
    ROUNDING of the probe's largest logit. At most 1 passes as float32."""
    log_probability_max: float
    """Largest absolute difference of a log-probability, in nats."""
    log_probability_mean: float
    probability_max: float
    """Largest absolute difference of a probability."""
    agreement: float
    """Share of probes with the same winning class."""
    probes: int
    classes: int
    """Distinct winning classes among the probes: 1 would make the comparison weak."""
    spread: float
    """Standard deviation of the network's logits over the probes, mean over classes."""
    worst: str
    """Lengths of the probe with the largest difference of a logit."""

    def __str__(self) -> str:
        return (
            f"largest difference of a logit {self.max_difference:.2e} at {self.worst} "
            f"({self.excess:.1f} times what float32 is allowed: {TOLERANCE:.0e}, or {ROUNDING:.0e} "
            f"of the largest logit), of a probability {self.probability_max:.2e}; "
            f"{self.agreement:.1%} of {self.probes} answers agree"
        )

    def as_record(self) -> dict[str, Any]:
        """As the manifest stores it."""
        return dataclasses.asdict(self)


def compare(
    found: NDArray[np.floating], truth: NDArray[np.float64], names: Sequence[str]
) -> Comparison:
    """Logits (N, C) of a graph against the network's; names: of the N probes, for the worst one.

    A graph that refuses a length it should take, or answers with what is not a number, is as wrong
    as one that answers wrongly: such rows hold infinities.
    """
    finite = np.asarray(np.isfinite(found).all(axis=1))
    kept = np.where(finite[:, None], found, 0.0)
    difference = np.where(finite[:, None], np.abs(kept - truth), np.inf)
    allowed = np.maximum(TOLERANCE, ROUNDING * np.abs(truth).max(axis=1))
    probabilities = np.abs(softmax(kept) - softmax(truth))
    logs = np.abs(_log_softmax(kept) - _log_softmax(truth))
    probabilities[~finite], logs[~finite] = 1.0, np.inf
    same = (found.argmax(axis=1) == truth.argmax(axis=1)) & finite
    return Comparison(
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        excess=float((difference.max(axis=1) / allowed).max()),
        log_probability_max=float(logs.max()),
        log_probability_mean=float(logs.mean()),
        probability_max=float(probabilities.max()),
        agreement=float(same.mean()),
        probes=len(truth),
        classes=len(np.unique(truth.argmax(axis=1))),
        spread=float(truth.std(axis=0).mean()),
        worst=names[int(difference.max(axis=1).argmax())],
    )


def _log_softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
