"""Shapes of all values of a graph, from running it once.

Shape inference stops at operators outside of the standard, and at shapes that a graph computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.benchmarks.limits.graph import load_onnx
from ifmmin.runtime.backends.onnxruntime import CPU, load_onnxruntime, make_session
from ifmmin.runtime.errors import InputError

if TYPE_CHECKING:
    import onnx

_CURE = "run pip install 'ifmmin[cpu]'"


@dataclass(frozen=True)
class Value:
    """One array of a graph."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """What they take."""
        return self.size * self.dtype.itemsize

    @property
    def holds_weights(self) -> bool:
        """Whether these may be weights: floating-point numbers or 8-bit integers, no indices."""
        return self.dtype.kind == "f" or (self.dtype.kind in "iu" and self.dtype.itemsize == 1)


def input_values(graph: onnx.GraphProto, sizes: Mapping[str, int]) -> dict[str, Value]:
    """The inputs of a graph with `sizes` for its free axes; InputError for an axis without one."""
    return {value.name: _input(value, sizes) for value in graph.input}


def all_values(model: onnx.ModelProto, inputs: Mapping[str, Value]) -> dict[str, Value]:
    """Inputs, initializers and outputs of every node, by name.

    Runs the model on zeros, unoptimised and with every value as an output. inputs: of the same
    names as the model's own.
    """
    onnx, ort = load_onnx(), load_onnxruntime(_CURE)
    told = onnx.ModelProto()
    told.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del told.graph.output[:]
    told.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = make_session(ort, told.SerializeToString(), options, [CPU])
    feed: dict[str, NDArray[Any]] = {
        name: np.zeros(value.shape, value.dtype) for name, value in inputs.items()
    }
    arrays = dict(zip(names, session.run(names, feed), strict=True))
    constants = {tensor.name: _initializer(tensor) for tensor in model.graph.initializer}
    return {**inputs, **constants, **{name: _value(array) for name, array in arrays.items()}}


def _value(array: NDArray[Any]) -> Value:
    return Value(array.shape, array.dtype)


def _initializer(tensor: onnx.TensorProto) -> Value:
    dtype = load_onnx().helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return Value(tuple(tensor.dims), np.dtype(dtype))


def _input(value: onnx.ValueInfoProto, sizes: Mapping[str, int]) -> Value:
    tensor = value.type.tensor_type
    dtype = load_onnx().helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = []
    for axis in tensor.shape.dim:
        if axis.dim_param and axis.dim_param not in sizes:
            known = ", ".join(sizes) or "none"
            raise InputError(
                f"input {value.name} has a free axis {axis.dim_param}, sizes were given for "
                f"{known}; give the size of {axis.dim_param} too"
            )
        shape.append(sizes[axis.dim_param] if axis.dim_param else axis.dim_value)
    return Value(tuple(shape), np.dtype(dtype))
