"""Weights of few bits that compute in float32: small files where 8-bit products lose too much.

ONNX Runtime folds a Cast and a Mul of constants when it loads a graph, so the weights are floats
again before the first call and cost it nothing. A DequantizeLinear would not do: it is left alone
by that folding and would run at every call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ifmmin.export.groups import DYNAMIC, operator_groups
from ifmmin.export.quantise import TRANSPOSED, quantise_dynamic
from ifmmin.export.rounding import Grid, Rounding
from ifmmin.export.select import Reduction

_LEVELS = 127
"""Symmetric: -127 to 127."""


def quantise_for_cpu(
    model: onnx.ModelProto, reduction: Reduction, rounding: Rounding | None = None
) -> onnx.ModelProto:
    """The model with some groups in 8 bits, for ONNX Runtime on a CPU.

    rounding: of the model's weights, default to the nearest levels.
    """
    rounding = None if rounding is None else rounding.other(reduction.rounding)
    if reduction.computed:
        model = quantise_dynamic(model, reduction.computed, rounding)
    if reduction.weight_only:
        model = quantise_weights(model, reduction.weight_only, rounding)
    return model


def quantise_weights(
    model: onnx.ModelProto, bits: Mapping[str, int], rounding: Rounding | None = None
) -> onnx.ModelProto:
    """The model with the weights of some groups in 8 bits, a scale per output, or in float16.

    What two operators share is stored once. A weight that a group left alone reads too stays whole.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    every = operator_groups(made, DYNAMIC)
    names = {name: bits[group] for group in bits if group in every for name in every[group].nodes}
    tensors = {tensor.name: tensor for tensor in made.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for name, (axis, wanted) in sorted(_chosen(made, names).items()):
        weight = numpy_helper.to_array(tensors[name])
        parts = _half(name, weight) if wanted == 16 else _levels(name, weight, axis, rounding)
        if parts is None:
            continue
        made.graph.initializer.remove(tensors[name])
        made.graph.initializer.extend(numpy_helper.from_array(part, n) for n, part in parts.items())
        nodes.extend(_unfold(name, list(parts)))
    rest = list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend([*nodes, *rest])
    return made


def _unfold(name: str, parts: Sequence[str]) -> list[onnx.NodeProto]:
    """Nodes that make a weight of its stored form, and of its scales where it has some."""
    levels, *scales = parts
    cast = f"{name}_cast" if scales else name
    nodes = [helper.make_node("Cast", [levels], [cast], f"{name}_cast", to=TensorProto.FLOAT)]
    if scales:
        nodes.append(helper.make_node("Mul", [cast, *scales], [name], f"{name}_mul"))
    return nodes


def _chosen(model: onnx.ModelProto, names: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Weights that only the named nodes read: their axis of inputs and the most bits wanted."""
    weights = {
        tensor.name
        for tensor in model.graph.initializer
        if len(tensor.dims) > 1 and tensor.data_type == TensorProto.FLOAT
    }
    kept: set[str] = set()
    chosen: dict[str, tuple[int, int]] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name not in weights:
                continue
            if node.name not in names or place not in (1, 2):
                kept.add(name)
                continue
            axis = _axis_of_inputs(node)
            before, wanted = chosen.get(name, (axis, 0))
            chosen[name] = axis, max(wanted, names[node.name])
            if before != axis:
                kept.add(name)
    return {name: found for name, found in chosen.items() if name not in kept}


def _axis_of_inputs(node: onnx.NodeProto) -> int:
    """The axis along which weights are summed: an LSTM's are (1, 4E, F), products' (F, N)."""
    if node.op_type == "LSTM":
        return 2
    transposed = any(a.name == "transB" and a.i == 1 for a in node.attribute)
    return 1 if transposed else 0


def _half(name: str, weight: NDArray[np.float32]) -> dict[str, NDArray[np.generic]] | None:
    """The weight in float16; None where it is out of its range."""
    with np.errstate(over="ignore"):
        half = weight.astype(np.float16)
    return {f"{name}_half": half} if np.isfinite(half).all() else None


def _levels(
    name: str, weight: NDArray[np.float32], axis: int, rounding: Rounding | None
) -> dict[str, NDArray[np.generic]]:
    """Levels of 8 bits and their scales: weight is about levels * scale."""
    columns = weight if axis == 0 else weight.reshape(weight.shape[-2:]).T
    largest = np.abs(columns).max(axis=0)
    scale = (np.where(largest > 0, largest, 1.0) / _LEVELS).astype(np.float32)
    grid = Grid(scale, np.zeros(len(scale), dtype=int), -_LEVELS, _LEVELS)
    if rounding is None:
        levels = grid.nearest(columns)
    else:
        levels = rounding.levels(name.removesuffix(TRANSPOSED), columns, grid)
    if axis != 0:
        levels, scale = levels.T.reshape(weight.shape), scale[:, None]
    return {f"{name}_levels": levels.astype(np.int8), f"{name}_scale": scale}
