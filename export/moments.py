"""What the weights of a graph multiply: second moments of their inputs on calibration data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ifmmin.export.groups import DYNAMIC
from ifmmin.export.watch import Load, Watched

_AT_ONCE = 512
"""Rows that are multiplied together."""


class Moments:
    """A graph in float32 that keeps, at every call, the moments of what its weights multiply.

    It is called like the graph and answers like it. The hidden states that an LSTM's recurrent
    weights multiply are those of the frames of a call: one utterance a call shows them best.
    """

    def __init__(self, model: onnx.ModelProto, load: Load) -> None:
        made = onnx.ModelProto()
        made.CopyFrom(model)
        self._inputs_of = _inputs_of(made)
        wanted = {name for sources in self._inputs_of.values() for name, _ in sources}
        self._run = Watched(made, wanted, load)
        self._of: dict[str, _Moment] = {}

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The graph's outputs."""
        found, seen = self._run(inputs)
        for weight, sources in self._inputs_of.items():
            for name, recurrent in sources:
                values = seen[name][:-1] if recurrent else seen[name]
                rows = values.reshape(-1, values.shape[-1])
                self._of.setdefault(weight, _Moment(rows.shape[1])).add(rows)
        return found

    def of(self, weight: str) -> NDArray[np.float64] | None:
        """Mean of x x^T (K, K) over all rows x that a weight multiplied; None where it did not."""
        return self._of[weight].mean() if weight in self._of else None


class _Moment:
    """Sum of x x^T (K, K) over rows, which are gathered first: a head has one row a call."""

    def __init__(self, width: int) -> None:
        self._sum = np.zeros((width, width))
        self._rows = 0
        self._gathered: list[NDArray[np.float64]] = []
        self._waiting = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """Rows (N, K)."""
        self._gathered.append(rows.astype(np.float64))
        self._waiting += len(rows)
        if self._waiting >= _AT_ONCE:
            self._take()

    def mean(self) -> NDArray[np.float64] | None:
        """Over all rows; None where there were none."""
        self._take()
        return self._sum / self._rows if self._rows else None

    def _take(self) -> None:
        if self._waiting:
            rows = np.concatenate(self._gathered)
            self._sum += rows.T @ rows
            self._rows += self._waiting
        self._gathered, self._waiting = [], 0


def _inputs_of(model: onnx.ModelProto) -> dict[str, list[tuple[str, bool]]]:
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
