"""Stands in for cuda-python's runtime module: memory with addresses, streams that do nothing until
they are waited for, recorded graphs. What CUDA calls undefined ends the test.

Names and parameters are those of cuda-python 12.2, 12.9 and 13.4 alike; see `cuda_names.json`.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Work = Callable[[], None]
POISON = 0xFF
"""What fresh memory holds; as float32 it is not a number."""


class Misuse(BaseException):  # not an Exception, so that no handler of ours hides it
    """Something that a real GPU would answer with garbage or a crash."""


class Handle:
    """A stream or graph, which TensorRT takes as an int."""

    def __init__(self, number: int, gpu: int, *, stream: bool) -> None:
        self.number, self.gpu, self.is_stream = number, gpu, stream
        self.queue: list[Work] = []
        self.recording: list[Work] | None = None
        self.alive = True

    def __int__(self) -> int:
        return self.number


class FakeCuda:
    """The module. `pinned` and `device` are the tables of what is allocated, by address."""

    cudaStreamNonBlocking = 1  # noqa: N815
    cudaMemcpyKind = IntEnum(  # noqa: N815
        "cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2}
    )
    cudaStreamCaptureMode = IntEnum(  # noqa: N815
        "cudaStreamCaptureMode", {"cudaStreamCaptureModeGlobal": 0,
                                  "cudaStreamCaptureModeThreadLocal": 1}
    )  # fmt: skip

    def __init__(self, *, gpus: int = 1, driver: int = 12060, runtime: int = 12060) -> None:
        self.gpus, self.driver, self.runtime = gpus, driver, runtime
        self.gpu_name, self.capability = b"Orin\0", (8, 7)
        self.total = 1 << 30
        self.pinned: dict[int, NDArray[np.uint8]] = {}
        self.device: dict[int, NDArray[np.uint8]] = {}
        self.freed: list[NDArray[np.uint8]] = []  # a dangling view finds rubbish, not a crash
        self.handles: dict[int, Handle] = {}
        self.fails: dict[str, int] = {}
        """By the name of a call the status that it answers next."""
        self.calls: list[str] = []
        self.last_error = 0
        self._numbers = itertools.count(0x5000)
        self._addresses = itertools.count(0x7F00_0000_0000, 1 << 24)
        self._current = threading.local()

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not (name.startswith("cuda") and callable(value) and not isinstance(value, type)):
            return value

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            status = self.fails.pop(name, 0)
            if status:
                self.last_error = status
                return (status, None) if name not in _WITHOUT_VALUE else (status,)
            return value(*arguments)

        return call

    # Devices.

    def cudaGetDeviceCount(self) -> Any:
        if self.driver < self.runtime // 1000 * 1000:
            return 35, None
        return (0, self.gpus) if self.gpus else (100, None)

    def cudaDriverGetVersion(self) -> Any:
        return 0, self.driver

    def cudaRuntimeGetVersion(self) -> Any:
        return 0, self.runtime

    def cudaSetDevice(self, device: int) -> Any:
        if not 0 <= device < self.gpus:
            return self._error(101)
        self._current.device = device
        return (0,)

    def cudaGetDeviceProperties(self, device: int) -> Any:
        major, minor = self.capability
        return 0, SimpleNamespace(name=self.gpu_name, major=major, minor=minor)

    def cudaMemGetInfo(self) -> Any:
        return 0, self.total - sum(memory.size for memory in self.device.values()), self.total

    def cudaGetErrorString(self, error: int) -> Any:
        texts = {2: b"out of memory", 46: b"CUDA-capable device(s) is/are busy or unavailable"}
        return 0, texts.get(int(error), b"an error")

    def cudaGetLastError(self) -> Any:
        found, self.last_error = self.last_error, 0
        return (found,)

    # Memory.

    def cudaMalloc(self, size: int) -> Any:
        self._outside_of_recordings("cudaMalloc")
        if size > self.cudaMemGetInfo()[1]:
            return *self._error(2), None
        address = next(self._addresses)
        self.device[address] = np.full(size, POISON, np.uint8)
        return 0, address

    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        self._outside_of_recordings("cudaHostAlloc")
        memory = np.full(size, POISON, np.uint8)
        self.pinned[memory.ctypes.data] = memory
        return 0, memory.ctypes.data

    def cudaFree(self, devPtr: int) -> Any:
        return self._free(self.device, devPtr)

    def cudaFreeHost(self, ptr: int) -> Any:
        return self._free(self.pinned, ptr)

    def _free(self, table: dict[int, NDArray[np.uint8]], address: int) -> Any:
        if self.pending:
            raise Misuse("memory is freed while work is queued")
        if address not in table:
            raise Misuse(f"address {address:#x} is freed, which is not allocated")
        memory = table.pop(address)
        memory[:] = 0xEE
        self.freed.append(memory)
        return (0,)

    def find(
        self, table: dict[int, NDArray[np.uint8]], address: int, size: int
    ) -> NDArray[np.uint8]:
        """Bytes of an allocation, whose whole length is what is asked for or more."""
        for start, memory in table.items():
            if start <= address < start + max(memory.size, 1):
                if address - start + size > memory.size:
                    raise Misuse(f"{size} bytes of a buffer of {memory.size} are used")
                return memory[address - start :][:size]
        raise Misuse(f"address {address:#x} is used, which is not allocated")

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: Handle) -> Any:
        ways = {1: (self.device, self.pinned), 2: (self.pinned, self.device)}
        to, source = ways[int(kind)]

        def copy() -> None:
            self.find(to, dst, count)[:] = self.find(source, src, count)

        self.find(to, dst, count)
        self.find(source, src, count)
        return self.enqueue(stream, copy)

    # Streams and graphs.

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        return 0, self._handle(stream=True)

    def cudaStreamDestroy(self, stream: Handle) -> Any:
        return self._destroy(stream)

    def cudaStreamSynchronize(self, stream: Handle) -> Any:
        self._outside_of_recordings("cudaStreamSynchronize")
        while stream.queue:
            stream.queue.pop(0)()
        return (0,)

    def cudaStreamBeginCapture(self, stream: Handle, mode: Any) -> Any:
        if stream.recording is not None:
            raise Misuse("a recording is begun inside another")
        stream.recording = []
        return (0,)

    def cudaStreamEndCapture(self, stream: Handle) -> Any:
        if stream.recording is None:
            raise Misuse("a recording is ended that was not begun")
        graph = self._handle()
        graph.queue, stream.recording = stream.recording, None
        return 0, graph

    def cudaGraphInstantiate(self, graph: Handle, flags: int) -> Any:
        executable = self._handle()
        executable.queue = list(graph.queue)
        return 0, executable

    def cudaGraphLaunch(self, graphExec: Handle, stream: Handle) -> Any:
        if not graphExec.alive:
            raise Misuse("a graph is launched that was destroyed")
        for work in graphExec.queue:
            self.enqueue(stream, work)
        return (0,)

    def cudaGraphDestroy(self, graph: Handle) -> Any:
        return self._destroy(graph)

    def cudaGraphExecDestroy(self, graphExec: Handle) -> Any:
        return self._destroy(graphExec)

    def enqueue(self, stream: Handle, work: Work) -> Any:
        """Append work to a stream, or to what it records."""
        if not stream.alive:
            raise Misuse("a stream is used that was destroyed")
        if self._gpu != stream.gpu:
            return self._error(400)
        (stream.queue if stream.recording is None else stream.recording).append(work)
        return (0,)

    @property
    def _gpu(self) -> int:
        """Of this thread."""
        return getattr(self._current, "device", 0)

    @property
    def pending(self) -> int:
        """Work that nobody has waited for."""
        return sum(len(h.queue) for h in self.handles.values() if h.alive and h.is_stream)

    @property
    def held(self) -> int:
        """Everything that was not given back."""
        alive = sum(handle.alive for handle in self.handles.values())
        return len(self.pinned) + len(self.device) + alive

    def _handle(self, *, stream: bool = False) -> Handle:
        handle = Handle(next(self._numbers), self._gpu, stream=stream)
        self.handles[handle.number] = handle
        return handle

    def _destroy(self, handle: Handle) -> Any:
        if not handle.alive:
            raise Misuse("something is destroyed twice")
        handle.alive = False
        return (0,)

    def _outside_of_recordings(self, name: str) -> None:
        if any(handle.recording is not None for handle in self.handles.values()):
            raise Misuse(f"{name} is called while a stream is recorded")

    def _error(self, status: int) -> Any:
        self.last_error = status
        return (status,)


_WITHOUT_VALUE = {
    "cudaSetDevice", "cudaFree", "cudaFreeHost", "cudaMemcpyAsync", "cudaStreamDestroy",
    "cudaStreamSynchronize", "cudaStreamBeginCapture", "cudaGraphLaunch", "cudaGraphDestroy",
    "cudaGraphExecDestroy", "cudaGetLastError",
}  # fmt: skip
