"""GPTQ rounding of weights: products change least, not the weights (Frantar et al. 2022)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from .groups import DYNAMIC, Inputs, Load, WithIntermediates

DAMPING = 0.1
"""Of the mean second moment, added to each: inputs that calibration data do not show have a size
too. The paper has 0.01 for many thousand rows; a head sees one row an utterance. Of 0.01 to 1 it
lost the fewest answers of two networks under seven patterns; in means all are about as good."""
_BLOCK = 128
"""Inputs after which the others are brought up to date, by one product."""
_AT_ONCE = 64
"""Calls of which the rows are multiplied together: a head has one row a call."""


def second_moments(
    model: onnx.ModelProto, feeds: Sequence[Inputs], load: Load
) -> dict[str, NDArray[np.float64]]:
    """Mean of x x^T (K, K) over all rows x that a weight multiplies, by the name of the weight.

    model: in float32. feeds: its inputs. The hidden states that an LSTM's recurrent weights
    multiply are those of the frames of a call: one utterance a call shows them best.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    multiplied = _multiplied(made)
    run = WithIntermediates(
        made, {name for values in multiplied.values() for name, _ in values}, load
    )
    sums: dict[str, NDArray[np.float64]] = {}
    counts: defaultdict[str, int] = defaultdict(int)
    for first in range(0, len(feeds), _AT_ONCE):
        seen = [run(feed) for feed in feeds[first : first + _AT_ONCE]]
        for weight, values in multiplied.items():
            given = [(s[name][:-1] if before else s[name]) for s in seen for name, before in values]
            rows = np.concatenate([x.reshape(-1, x.shape[-1]) for x in given]).astype(np.float64)
            sums[weight] = sums.get(weight, 0.0) + rows.T @ rows
            counts[weight] += len(rows)
    return {weight: total / counts[weight] for weight, total in sums.items() if counts[weight]}


def _multiplied(model: onnx.ModelProto) -> dict[str, list[tuple[str, bool]]]:
    """Per weight the values that it multiplies, and whether they are those of the frame before."""
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1}
    found: dict[str, list[tuple[str, bool]]] = {}
    for node in model.graph.node:
        if node.op_type not in DYNAMIC or node.input[1] not in weights:
            continue
        found.setdefault(node.input[1], []).append((node.input[0], False))
        if node.op_type == "LSTM":
            if not node.output[0]:
                node.output[0] = f"{node.name}/every"
            found.setdefault(node.input[2], []).append((node.output[0], True))
    return found


@dataclass(frozen=True)
class Grid:
    """Levels that weights may take: weight = (level - zero) * scale, one of each per output."""

    scale: NDArray[np.floating]
    """(N,)"""
    zero: NDArray[np.integer]
    """(N,)"""
    lowest: int
    highest: int

    def nearest(self, weights: NDArray[np.floating]) -> NDArray[np.floating]:
        """Levels of weights (..., N)."""
        levels = np.rint(weights / self.scale) + self.zero
        return np.asarray(np.clip(levels, self.lowest, self.highest), dtype=np.float64)

    def weights(self, levels: NDArray[np.floating]) -> NDArray[np.floating]:
        """What levels (..., N) stand for."""
        return np.asarray((levels - self.zero) * self.scale)


def round_to_grid(
    weight: NDArray[np.floating], moment: NDArray[np.float64], grid: Grid
) -> NDArray[np.floating]:
    """Levels (K, N) of a weight (K, N) whose inputs have the second moment (K, K).

    The largest inputs go first, while there are others left to make up for them.
    """
    order = np.argsort(-np.diag(moment), kind="stable")
    factor = _factor(moment[np.ix_(order, order)])
    rest = weight.astype(np.float64)[order]
    levels = np.empty_like(rest)
    for first in range(0, len(rest), _BLOCK):
        block = rest[first : first + _BLOCK]
        last = first + len(block)
        lost = np.empty_like(block)
        for row, values in enumerate(block):
            at = first + row
            levels[at] = grid.nearest(values)
            lost[row] = (values - grid.weights(levels[at])) / factor[at, at]
            block[row + 1 :] -= np.outer(factor[at, at + 1 : last], lost[row])
        rest[last:] -= factor[first:last, last:].T @ lost
    return levels[np.argsort(order)]


def _factor(moment: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper Cholesky factor of the inverse: row k holds how later inputs make up for input k."""
    mean = float(np.diag(moment).mean())
    damped = moment + np.eye(len(moment)) * (DAMPING * mean if mean > 0 else 1.0)
    return np.ascontiguousarray(np.linalg.cholesky(np.linalg.inv(damped)).T)
