"""The inputs and outputs of a loaded engine, and what may be given to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import EngineError, InputError

Sizes = tuple[int, ...]
Shapes = tuple[Sizes, ...]
"""Of all inputs, in the graph's order."""
_TYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


@dataclass(frozen=True)
class EngineTensor:
    """An input or output."""

    name: str
    dtype: np.dtype[Any]
    is_input: bool
    minimum: Sizes = ()
    optimum: Sizes = ()
    maximum: Sizes = ()
    """What the engine was built for; empty for an output."""

    def nbytes(self, shape: Sizes) -> int:
        """Bytes of an array of this shape."""
        return int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize


def read_tensors(trt: Any, engine: Any, names: Sequence[str]) -> list[EngineTensor]:
    """All inputs and outputs, in the order of `names`, which are those of the graph.

    EngineError for an engine that has others, or one that we cannot serve.
    """
    found = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    if sorted(found) != sorted(names):
        raise EngineError(
            f"the engine is of another graph: it has {', '.join(found)}; {', '.join(names)} were "
            "wanted"
        )
    return [_read(trt, engine, name) for name in names]


def _read(trt: Any, engine: Any, name: str) -> EngineTensor:
    kind = engine.get_tensor_dtype(name).name
    if kind not in _TYPES:
        raise EngineError(f"the engine's {name} is of type {kind}; export the bundle again")
    if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        raise EngineError(
            f"the engine wants the values of {name} to know its shapes; run this graph with "
            "another backend"
        )
    dtype = np.dtype(_TYPES[kind])
    if engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT:
        return EngineTensor(name, dtype, False)
    shape = tuple(engine.get_tensor_shape(name))
    # An engine without open sizes has no profile to ask for.
    sizes = engine.get_tensor_profile_shape(name, 0) if -1 in shape else [shape] * 3
    minimum, optimum, maximum = map(tuple, sizes)
    return EngineTensor(name, dtype, True, minimum, optimum, maximum)


def conforming(
    inputs: Sequence[EngineTensor], given: Mapping[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """What was given, in the graph's order; InputError unless names, types and sizes fit."""
    if given.keys() != {tensor.name for tensor in inputs}:
        wanted = ", ".join(tensor.name for tensor in inputs)
        raise InputError(f"the engine takes {wanted}; it was given {', '.join(given) or 'nothing'}")
    arrays = [given[tensor.name] for tensor in inputs]
    for tensor, array in zip(inputs, arrays, strict=True):
        if array.dtype != tensor.dtype:
            raise InputError(f"input {tensor.name} is {array.dtype}; {tensor.dtype} was wanted")
        _check_shape(tensor, array.shape)
    return arrays


def _check_shape(tensor: EngineTensor, shape: Sizes) -> None:
    low, high = tensor.minimum, tensor.maximum
    if len(shape) == len(low) and all(
        a <= n <= b for a, n, b in zip(low, shape, high, strict=True)
    ):
        return
    allowed = f"{low}" if low == high else f"{low} to {high}"
    raise InputError(
        f"input {tensor.name} has shape {shape}; the engine was built for {allowed}: cut it, or "
        "use another backend"
    )
