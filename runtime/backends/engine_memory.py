"""Memory for what lies between the layers of an engine: of the sizes that came, not of the largest.

By itself TensorRT takes at once what the largest sizes of the profile need, 1.3 GB for 64
utterances of 2000 frames of every modality, whatever comes later.
"""

from __future__ import annotations

from typing import Any

from ifmmin.runtime.backends.cuda_memory import Cuda, Memory


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
