"""8 bits for ONNX Runtime's CPU, by its own quantiser: ranges are found while running."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ifmmin.export.groups import DYNAMIC, PRODUCTS, operator_groups
from ifmmin.export.rounding import Grid, Rounding

Feed = Mapping[str, NDArray[Any]]
TRANSPOSED = "_Transposed"
"""What the quantiser adds to the name of a Gemm's weight when it makes it a MatMul's."""
_SEVEN_BITS, _EIGHT_BITS = (-64, 64), (0, 255)
"""Levels of an LSTM's weights and of products'."""


def quantise_dynamic(
    model: onnx.ModelProto, groups: Sequence[str], rounding: Rounding | None = None
) -> onnx.ModelProto:
    """The model with some groups of operators in 8 bits, for ONNX Runtime on a CPU.

    Products have unsigned weights and LSTMs, which know only signed ones, 7 bits: on x86 without
    VNNI the products of an unsigned and a signed byte are added in 16 bits, and saturate.
    rounding: of their weights, default to the nearest levels.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    signed, unsigned = QuantType.QInt8, QuantType.QUInt8
    every = operator_groups(model, DYNAMIC)
    nodes = [name for group in groups for name in every[group].nodes]
    kinds = {node.name: node.op_type for node in model.graph.node}
    whole = model
    for operators, weight_type, reduced in ((("LSTM",), signed, True), (PRODUCTS, unsigned, False)):
        chosen = [name for name in nodes if kinds[name] in operators]
        if not chosen:
            continue
        # The quantiser turns a Gemm into a MatMul of another name before it looks for its own.
        names = [*chosen, *(f"{name}_MatMul" for name in chosen)]
        with quantiser_files(model) as (source, target):
            quantize(
                source,
                target,
                per_channel=True,
                op_types_to_quantize=list(operators),
                nodes_to_quantize=names,
                weight_type=weight_type,
                reduce_range=reduced,
            )
            model = onnx.load(target)
    if rounding is not None:
        _round_again(model, whole, rounding)
    return model


def _round_again(model: onnx.ModelProto, whole: onnx.ModelProto, rounding: Rounding) -> None:
    """Other levels for the weights that the quantiser took to the nearest ones, on its grids."""
    weights = {tensor.name: tensor for tensor in whole.graph.initializer}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, tensor in tensors.items():
        stem = name.removesuffix("_quantized")
        original = weights.get(stem.removesuffix(TRANSPOSED))
        if stem == name or original is None:
            continue
        weight = numpy_helper.to_array(original)
        # It keeps weights as (K, N), those of an LSTM as (1, K, N).
        weight = weight[0].T if weight.ndim == 3 else weight
        weight = weight.T if stem.endswith(TRANSPOSED) else weight
        scale, zero = (
            numpy_helper.to_array(tensors[f"{stem}_{part}"]).reshape(-1)
            for part in ("scale", "zero_point")
        )
        signed = tensor.data_type == onnx.TensorProto.INT8
        grid = Grid(scale, zero.astype(int), *(_SEVEN_BITS if signed else _EIGHT_BITS))
        levels = rounding.levels(original.name, weight, grid)
        made = levels.astype(np.int8 if signed else np.uint8).reshape(tuple(tensor.dims))
        tensor.CopyFrom(numpy_helper.from_array(made, name))


@contextmanager
def quantiser_files(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Places for the quantiser, which works on files and tells about itself in the root log."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float.onnx", Path(folder) / "quantised.onnx"
            onnx.save(model, source)
            yield str(source), str(target)
    finally:
        logging.disable(previous)
