"""8 bits for ONNX Runtime's CPU, by its own quantiser: ranges are found while running."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from .gptq import Grid, round_to_grid, second_moments
from .groups import DYNAMIC, Inputs, Load, operator_groups

_TRANSPOSED = "_Transposed"
"""What the quantiser adds to the name of a Gemm's weight when it makes it a MatMul's."""
_SEVEN_BITS, _EIGHT_BITS = (-64, 64), (0, 255)
"""Levels of an LSTM's weights and of products'."""


class DynamicQuantiser:
    """Puts some groups of a model's operators into 8 bits, for ONNX Runtime on a CPU.

    Products have unsigned weights and LSTMs, which know only signed ones, 7 bits: on x86 without
    VNNI the products of an unsigned and a signed byte are added in 16 bits, and saturate. feeds:
    inputs by which weights are rounded, all run once; without any, to the nearest levels.
    """

    def __init__(self, model: onnx.ModelProto, feeds: Sequence[Inputs], load: Load) -> None:
        self._model = model
        self._moments = second_moments(model, feeds, load)
        self._levels: dict[str, NDArray[np.generic]] = {}
        self.groups = operator_groups(model, DYNAMIC)

    def __call__(self, groups: Sequence[str]) -> onnx.ModelProto:
        """The model with those groups in 8 bits."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization import quantize_dynamic as quantize

        nodes = [name for group in groups for name in self.groups[group].nodes]
        kinds = {node.name: node.op_type for node in self._model.graph.node}
        model = self._model
        for operators, weight_type in (
            (["LSTM"], QuantType.QInt8), (["MatMul", "Gemm"], QuantType.QUInt8)
        ):  # fmt: skip
            chosen = [name for name in nodes if kinds[name] in operators]
            if not chosen:
                continue
            with quantiser_files(model) as (source, target):
                quantize(
                    source,
                    target,
                    per_channel=True,
                    op_types_to_quantize=operators,
                    # It turns a Gemm into a MatMul of another name before it looks for its own.
                    nodes_to_quantize=[*chosen, *(f"{name}_MatMul" for name in chosen)],
                    weight_type=weight_type,
                    reduce_range=weight_type == QuantType.QInt8,
                )
                model = onnx.load(target)
        self._round_again(model)
        return model

    def _round_again(self, model: onnx.ModelProto) -> None:
        """Other levels for the weights that the quantiser took to the nearest, on its grids."""
        weights = {tensor.name: tensor for tensor in self._model.graph.initializer}
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for name, tensor in tensors.items():
            stem = name.removesuffix("_quantized")
            original = stem.removesuffix(_TRANSPOSED)
            if stem == name or original not in self._moments:
                continue
            if original not in self._levels:
                weight = numpy_helper.to_array(weights[original])
                # It keeps weights as (K, N), those of an LSTM as (1, K, N).
                weight = weight[0].T if weight.ndim == 3 else weight
                weight = weight.T if stem.endswith(_TRANSPOSED) else weight
                scale, zero = (
                    numpy_helper.to_array(tensors[f"{stem}_{part}"]).reshape(-1)
                    for part in ("scale", "zero_point")
                )
                signed = tensor.data_type == onnx.TensorProto.INT8
                grid = Grid(scale, zero.astype(int), *(_SEVEN_BITS if signed else _EIGHT_BITS))
                levels = round_to_grid(weight, self._moments[original], grid)
                made = levels.astype(np.int8 if signed else np.uint8)
                self._levels[original] = made.reshape(tuple(tensor.dims))
            tensor.CopyFrom(numpy_helper.from_array(self._levels[original], name))


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
