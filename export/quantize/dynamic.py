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
_SEVEN_BITS = -64, 64
"""Levels of weights."""


class DynamicQuantiser:
    """Puts some groups of a model's operators into 8 bits, for ONNX Runtime on a CPU.

    Weights are signed, for which processors with dot products have instructions (VNNI, AMX: a
    product of text in a quarter of the time that unsigned weights take), and of 7 bits: elsewhere
    on x86 the products of an unsigned and a signed byte are added in 16 bits, which must not
    saturate, so that answers are the same on all. feeds: inputs by which weights are rounded, all
    run once; without any, to the nearest levels.
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
        with quantiser_files(self._model) as (source, target):
            quantize(
                source,
                target,
                per_channel=True,
                op_types_to_quantize=list(DYNAMIC),
                # It turns a Gemm into a MatMul of another name before it looks for its own.
                nodes_to_quantize=[*nodes, *(f"{name}_MatMul" for name in nodes)],
                weight_type=QuantType.QInt8,
                reduce_range=True,
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
                grid = Grid(scale, zero.astype(int), *_SEVEN_BITS)
                levels = round_to_grid(weight, self._moments[original], grid)
                self._levels[original] = levels.astype(np.int8).reshape(tuple(tensor.dims))
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
