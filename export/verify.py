"""Proof that a graph says what its network says: a comparison with figures, not a yes or no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ifmmin.export.probes import Probe
from ifmmin.runtime.backends import Runner
from ifmmin.runtime.errors import ParityError
from ifmmin.runtime.modality import Pattern

TOLERANCE = 1e-4
"""Largest difference of a logit that a float32 graph may show; 2e-5 is typical."""
ROUNDING = 5e-6
"""The same as a share of a probe's largest logit, where that is more: float32 knows no better.
It matters above logits of 20, as where a pooling sums over long inputs."""


@dataclass(frozen=True)
class Comparison:
    """A graph against its network over some probes. True when within the tolerance."""

    pattern: Pattern
    tolerance: float
    max_difference: float
    """Largest absolute difference of a logit."""
    excess: float
    """Largest difference over what is allowed for its probe; at most 1 passes."""
    mean_difference: float
    agreement: float
    """Share of probes with the same winning class."""
    probes: int
    classes: int
    """Distinct winning classes among the probes: 1 would make the comparison weak."""
    spread: float
    """Standard deviation of the network's logits over the probes, mean over classes."""
    worst: str
    """Lengths of the worst probe."""

    def __bool__(self) -> bool:
        return self.excess <= 1.0

    def __str__(self) -> str:
        return (
            f"pattern {self.pattern}: largest difference of a logit {self.max_difference:.2e} at "
            f"{self.worst}, {self.excess:.1f} times what is allowed ({self.tolerance:.0e}, or "
            f"{ROUNDING:.0e} of the largest logit); mean {self.mean_difference:.2e}, "
            f"{self.agreement:.1%} of {self.probes} answers agree"
        )

    def require(self) -> None:
        """ParityError unless within the tolerance."""
        if not self:
            raise ParityError(f"the graph does not say what the network says: {self}")


def compare(
    runner: Runner, pattern: Pattern, probes: Sequence[Probe], *, tolerance: float = TOLERANCE
) -> Comparison:
    """Run every probe through a loaded graph. A call that fails counts as infinitely wrong."""
    truth = np.stack([probe.logits for probe in probes])
    found = np.stack([_run(runner, probe) for probe in probes])
    difference = np.abs(found - truth)
    allowed = np.maximum(tolerance, ROUNDING * np.abs(truth).max(axis=1))
    shares = difference.max(axis=1) / allowed
    worst = probes[int(shares.argmax())]
    lengths = ", ".join(f"T_{m}={len(x)}" for m, x in worst.features.items())
    return Comparison(
        pattern=pattern,
        tolerance=tolerance,
        max_difference=float(difference.max()),
        excess=float(shares.max()),
        mean_difference=float(difference.mean()),
        agreement=float((found.argmax(axis=1) == truth.argmax(axis=1)).mean()),
        probes=len(probes),
        classes=len(np.unique(truth.argmax(axis=1))),
        spread=float(truth.std(axis=0).mean()),
        worst=lengths,
    )


def _run(runner: Runner, probe: Probe) -> NDArray[np.floating]:
    try:
        return runner(probe.features)
    except RuntimeError:
        # A graph that refuses a length it should take is as wrong as one that answers wrongly.
        return np.full(len(probe.logits), np.inf)
