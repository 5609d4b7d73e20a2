"""Tensors of an engine, and the memory for them and for what lies between its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, InputError
from .cuda import Cuda, CudaHandle, HostMemory, Memory

Sizes = tuple[int, ...]
Shapes = tuple[Sizes, ...]
"""Of all inputs, in the graph's order."""
_TYPES = {
    "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "UINT8": np.uint8, "INT32": np.int32,
    "INT64": np.int64, "BOOL": np.bool_,
}  # fmt: skip


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


AT_ONCE_BYTES = 1 << 20
"""What is smaller is taken once, for the largest sizes. An engine for 64 long utterances
would take half a gigabyte, which a device with 8 GB for all has better uses for."""


class Buffers:
    """Per tensor one pinned buffer and one of the device; they grow, and never shrink."""

    def __init__(self, cuda: Cuda, tensors: Sequence[EngineTensor]) -> None:
        self._cuda = cuda
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.generation = 0
        """Counts up when an address changes: whoever was told addresses has to be told anew."""
        self._host: dict[str, HostMemory] = {}
        self._device: dict[str, Memory] = {}
        self._size = dict.fromkeys(self.tensors, 0)
        for tensor in tensors:
            self.require(tensor.name, min(tensor.nbytes(tensor.maximum), AT_ONCE_BYTES))

    def require(self, name: str, nbytes: int) -> None:
        """Make room for so much of a tensor. Nothing may be queued that uses it."""
        size = self._size[name]
        if size and nbytes <= size:
            return
        tensor = self.tensors[name]
        # Twice as much, so that utterances which grow bit by bit do not allocate each time.
        room = max(nbytes, 2 * size, tensor.dtype.itemsize)
        if tensor.is_input:
            room = min(room, max(tensor.nbytes(tensor.maximum), nbytes, 1))
        self._free(name)
        self._host[name] = self._cuda.allocate_host(room)
        self._device[name] = self._cuda.allocate(room)
        self._size[name] = room

    def _free(self, name: str) -> None:
        # Before the larger one is there: a small device may not have room for both.
        # Counted first: there may be no memory for the new one, and the old address is gone.
        self._size[name] = 0
        self.generation += 1
        for memory in (self._host.pop(name, None), self._device.pop(name, None)):
            if memory is not None:
                memory.free()

    def address(self, name: str) -> int:
        """On the device."""
        return int(self._device[name].handle)

    def view(self, name: str, shape: Sizes) -> NDArray[Any]:
        """What is pinned, as an array; not to be handed out, since the next call overwrites it."""
        tensor = self.tensors[name]
        content = self._host[name].bytes[: tensor.nbytes(shape)]
        return content.view(tensor.dtype).reshape(shape)

    def copy_in(self, name: str, nbytes: int, stream: CudaHandle) -> None:
        """Queue the copy to the device."""
        self._cuda.copy_in(self._device[name], self._host[name], nbytes, stream)

    def copy_out(self, name: str, nbytes: int, stream: CudaHandle) -> None:
        """Queue the copy to the host."""
        self._cuda.copy_out(self._host[name], self._device[name], nbytes, stream)

    def poison(self, name: str, nbytes: int, stream: CudaHandle) -> None:
        """Overwrite a tensor in both places, so that an answer which is there later is new."""
        self._host[name].bytes[:nbytes] = np.uint8(0xFF)  # NaN, or -1
        self.copy_in(name, nbytes, stream)
        self._cuda.synchronise(stream)


class ContextMemory:
    """Memory of one execution context; it grows with the sizes, and never shrinks.

    largest: bytes that the largest sizes of the profile need.
    """

    def __init__(self, trt: Any, cuda: Cuda, largest: int) -> None:
        self.strategy: Any = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        """With which the context is to be made."""
        self._cuda = cuda
        self._largest = largest
        self._memory: Memory | None = None
        self._size = 0

    def fit(self, context: Any) -> None:
        """Give the context what the shapes need that it has now.

        Nothing may be queued that uses it. EngineError where there is not so much memory.
        """
        # Asked even where the memory is large enough: it also divides the memory anew. Zero means
        # that it cannot tell.
        needed = int(context.update_device_memory_size_for_shapes()) or self._largest
        if self._memory is None or needed > self._size:
            self._memory = self._replace(needed)
        context.set_device_memory(self._memory.handle, self._size)

    def _replace(self, needed: int) -> Memory:
        if self._memory is not None:
            # Before the larger one is there: a small device may not have room for both.
            self._memory.free()
            self._memory, self._size = None, 0
        # A quarter more, so that batches which grow bit by bit do not allocate each time.
        size = max(needed, min(needed + needed // 4, self._largest))
        memory = self._cuda.allocate(size)
        self._size = size
        return memory
