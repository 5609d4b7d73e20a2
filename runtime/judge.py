"""How far a graph's answers may be from its network's on another device than the exporter's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.check import Check
from ifmmin.runtime.manifest import GraphEntry

TOLERANCE = 1e-4
"""Of a logit: what a float32 graph is allowed at export."""
ROUNDING = {"fp32": 5e-6, "fp16": 1e-2}
"""The same as a share of an answer's largest logit, where that is more; some 20 to 80 times what
one number of the type is rounded by."""
PROBABILITY = 2e-2
"""Of a probability, for graphs in 8 bits."""
MARGINS = {"latency": 2.0, "throughput": 2.0, "head": 4.0}
"""Times the largest difference measured at export. Another processor sums in another order and
rounds integers elsewhere; a graph that is not the one exported is off by far more. A head was
measured on few utterances, cut into chunks, and not on the golden ones."""
EIGHT_BITS = ("int8", "int8-qdq")


def judge(
    entry: GraphEntry, what: str, found: NDArray[np.floating], truth: NDArray[np.floating]
) -> Check:
    """Logits (N, C) of a graph against the network's.

    Graphs in 8 bits are compared by probabilities: their logits may be far off where the answer is
    sure. What is not finite, or has another shape, is wrong.
    """
    if found.shape != truth.shape:
        return Check(entry.file, what, False, f"logits {found.shape}, wanted {truth.shape}")
    if entry.precision in EIGHT_BITS:
        unit, differences = "probability", _largest(softmax(found) - softmax(truth))
        limits = np.full(len(truth), max(PROBABILITY, _measured(entry, "probability_max")))
    else:
        unit, differences = "logit", _largest(found - truth)
        own = max(TOLERANCE, _measured(entry, "max_difference"))
        limits = np.maximum(own, ROUNDING[entry.precision] * np.abs(truth).max(axis=1))
    worst = int((differences / limits).argmax())
    difference, allowed = float(differences[worst]), float(limits[worst])
    detail = (
        f"largest difference of a {unit} {difference:.1e} at golden input {worst}, "
        f"allowed {allowed:.1e}"
    )
    return Check(
        entry.file, what, difference <= allowed, detail, difference, unit=unit, allowed=allowed
    )


def softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Probabilities (N, C) of logits (N, C); not finite where those are not."""
    with np.errstate(invalid="ignore"):
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _largest(differences: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, C) -> (N,), infinite where anything is not finite."""
    sizes = np.nan_to_num(np.abs(differences), nan=np.inf, posinf=np.inf)
    return np.asarray(sizes.max(axis=1), dtype=np.float64)


def _measured(entry: GraphEntry, figure: str) -> float:
    """A figure of the comparison at export with the margin; 0 where it is not recorded."""
    value = entry.parity.get(figure)
    return MARGINS[entry.shape] * float(value) if isinstance(value, int | float) else 0.0
