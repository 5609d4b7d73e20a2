"""Memory for the inputs and outputs of one engine, on the host and on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends.cuda_memory import Cuda, HostMemory, Memory, Owned
from ifmmin.runtime.backends.engine_tensors import EngineTensor, Sizes

_AT_ONCE = 1 << 20
"""Bytes: what is smaller is taken once, for the largest sizes. An engine for 64 long utterances
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
            self.require(tensor.name, min(tensor.nbytes(tensor.maximum), _AT_ONCE))

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

    def copy_in(self, name: str, nbytes: int, stream: Owned) -> None:
        """Queue the copy to the device."""
        self._cuda.copy_in(self._device[name], self._host[name], nbytes, stream)

    def copy_out(self, name: str, nbytes: int, stream: Owned) -> None:
        """Queue the copy to the host."""
        self._cuda.copy_out(self._host[name], self._device[name], nbytes, stream)

    def spoil(self, name: str, nbytes: int, stream: Owned) -> None:
        """Overwrite a tensor in both places, so that an answer which is there later is new."""
        self._host[name].bytes[:nbytes] = np.uint8(0xFF)  # NaN, or -1
        self.copy_in(name, nbytes, stream)
        self._cuda.synchronise(stream)
