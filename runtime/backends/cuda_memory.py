"""The few calls to CUDA that an engine needs: memory, copies, one stream, recorded work.

They go through cuda-python, which is small and has no libraries of its own, so that neither torch
nor a GPU build of ONNX Runtime has to be installed.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends.cuda_runtime import load_runtime, require_device, say
from ifmmin.runtime.errors import BackendUnavailable, EngineError

_OUT_OF_MEMORY = 2


class Owned:
    """Something that CUDA made; given back by `free`, or when nobody holds it any more."""

    def __init__(self, handle: Any, release: Callable[[Any], object]) -> None:
        self.handle = handle
        self._finalizer = weakref.finalize(self, release, handle)
        self._finalizer.atexit = False  # the end of the process frees all, and CUDA may be gone

    def free(self) -> None:
        """Give it back now; a second time does nothing."""
        self._finalizer()


class Memory(Owned):
    """Memory of the device; `handle` is its address."""


class HostMemory(Owned):
    """Pinned memory of the host, from which the device copies without help of the CPU."""

    def __init__(self, address: int, nbytes: int, release: Callable[[Any], object]) -> None:
        super().__init__(address, release)
        self.bytes: NDArray[np.uint8] = np.ctypeslib.as_array(
            (ctypes.c_uint8 * nbytes).from_address(address)
        )
        """(nbytes,), not to be used after `free`."""


class Cuda:
    """One GPU.

    device: its number, from 0. Raises BackendUnavailable, in one line with the cure, where there is
    no cuda-python, no driver or no such GPU; later calls raise EngineError with CUDA's reason.
    """

    def __init__(self, device: int = 0) -> None:
        self._runtime: Any = load_runtime()
        require_device(self._runtime, device)
        self.device = device
        try:
            self.use()
            (properties,) = self._call("cudaGetDeviceProperties", device)
        except EngineError as error:
            raise BackendUnavailable(f"GPU {device} does not start: {error}") from error
        name = properties.name
        self.name: str = (name.decode() if isinstance(name, bytes) else name).rstrip("\0")
        """As the driver says it, e.g. `Orin`."""
        self.sm = f"SM{properties.major}{properties.minor}"
        """Compute capability, e.g. `SM87`."""

    def use(self) -> None:
        """Make this the GPU of the calling thread, which every call below relies on."""
        self._call("cudaSetDevice", self.device)

    def free_bytes(self) -> int:
        """Memory of the device that nobody has taken."""
        return int(self._call("cudaMemGetInfo")[0])

    def allocate(self, nbytes: int) -> Memory:
        """Memory of the device, at least 1 byte."""
        (address,) = self._call("cudaMalloc", nbytes)
        return Memory(int(address), self._release("cudaFree"))

    def allocate_host(self, nbytes: int) -> HostMemory:
        """Pinned memory of the host, at least 1 byte."""
        (address,) = self._call("cudaHostAlloc", nbytes, 0)
        return HostMemory(int(address), nbytes, self._release("cudaFreeHost"))

    def stream(self) -> Owned:
        """A queue of work that does not wait for other queues."""
        (stream,) = self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        return Owned(stream, self._release("cudaStreamDestroy"))

    def copy_in(self, to: Memory, source: HostMemory, nbytes: int, stream: Owned) -> None:
        """Queue a copy from the host; the source is read at some time before `synchronise`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", to.handle, source.handle, nbytes, kind, stream.handle)

    def copy_out(self, to: HostMemory, source: Memory, nbytes: int, stream: Owned) -> None:
        """Queue a copy to the host; it is there after `synchronise`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", to.handle, source.handle, nbytes, kind, stream.handle)

    def synchronise(self, stream: Owned) -> None:
        """Wait until all that was queued is done."""
        self._call("cudaStreamSynchronize", stream.handle)

    def record(self, stream: Owned, work: Callable[[], None]) -> Owned:
        """What `work` queues, as a CUDA graph, which can be launched again and again; not done yet.

        What is raised in `work` goes through; the stream is in order then.
        """
        # Other threads may allocate meanwhile; only calls of this one could spoil the recording.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream.handle, mode)
        try:
            work()
        except BaseException:
            self._stop_recording(stream)
            raise
        (graph,) = self._call("cudaStreamEndCapture", stream.handle)
        try:
            (executable,) = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._runtime.cudaGraphDestroy(graph)
        return Owned(executable, self._release("cudaGraphExecDestroy"))

    def launch(self, graph: Owned, stream: Owned) -> None:
        """Queue what was recorded."""
        self._call("cudaGraphLaunch", graph.handle, stream.handle)

    def _stop_recording(self, stream: Owned) -> None:
        status, graph = self._runtime.cudaStreamEndCapture(stream.handle)
        if int(status) == 0:
            self._runtime.cudaGraphDestroy(graph)
        self._runtime.cudaGetLastError()

    def _release(self, name: str) -> Callable[[Any], object]:
        # A finalizer has nobody to raise to; a GPU that has failed says so at the next call.
        function: Callable[[Any], object] = getattr(self._runtime, name)
        return function

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        status, *values = getattr(self._runtime, name)(*arguments)
        if int(status) == 0:
            return tuple(values)
        # Else the next call of somebody else, such as TensorRT, would find it and blame itself.
        self._runtime.cudaGetLastError()
        cure = ""
        if int(status) == _OUT_OF_MEMORY:
            cure = "; close other programs that use the GPU, or give it fewer or shorter utterances"
        raise EngineError(f"{name} failed: {say(self._runtime, status)}{cure}")
