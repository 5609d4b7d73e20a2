"""CUDA: its driver, its runtime, the libraries of a provider; memory, copies, recorded work.

The runtime comes through cuda-python, which is small and has no libraries of its own, so that
neither torch nor a GPU build of ONNX Runtime has to be installed.

A provider of ONNX Runtime must be loaded by ONNX Runtime, which prints what is missing and goes on
without it. Asking for missing libraries first gives their names, and nothing is printed.
"""

from __future__ import annotations

import ctypes
import importlib
import struct
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendUnavailable, EngineError

_MAGIC = b"\x7fELF\x02\x01"
"""Of 64 bits, little end first: every Linux on x86-64 and arm64."""
_LOAD, _DYNAMIC = 1, 2
_END, _NEEDED, _STRINGS, _RPATH, _RUNPATH = 0, 1, 5, 15, 29


@dataclass(frozen=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def missing_libraries(path: Path, places: Sequence[Path] = ()) -> list[str]:
    """Names of what the library at `path` needs and the loader does not find, in its order.

    What is found is loaded, as it will be anyway. places: directories to look in besides those of
    the loader. Empty where `path` is no library of Linux.
    """
    try:
        names, directories = _dependencies(path)
    except (OSError, ValueError, struct.error):
        return []
    return [name for name in names if not can_load(name, [*directories, *places])]


def can_load(name: str, places: Sequence[Path] = ()) -> bool:
    """Load a library by its name from the first place that has it, else from the loader's."""
    for candidate in (*(str(place / name) for place in places if (place / name).is_file()), name):
        try:
            ctypes.CDLL(candidate)
        except OSError:
            continue
        return True
    return False


def _dependencies(path: Path) -> tuple[list[str], list[Path]]:
    """Names of needed libraries, and directories in which this one looks for them."""
    with path.open("rb") as file:
        segments = list(_segments(file))
        entries = list(_dynamic(file, segments))
        start = next((value for tag, value in entries if tag == _STRINGS), None)
        if start is None:
            return [], []

        def text(offset: int) -> str:
            file.seek(_offset(segments, start + offset))
            return file.read(4096).split(b"\0", 1)[0].decode()

        names = [text(value) for tag, value in entries if tag == _NEEDED]
        paths = [text(value) for tag, value in entries if tag in (_RPATH, _RUNPATH)]
    origin = str(path.resolve().parent)
    found = [part for group in paths for part in group.split(":") if part]
    return names, [
        Path(part.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)) for part in found
    ]


def _segments(file: BinaryIO) -> Iterator[_Segment]:
    header = file.read(64)
    if not header.startswith(_MAGIC):
        raise ValueError("not an ELF file of 64 bits")
    (table,) = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    for index in range(count):
        file.seek(table + index * size)
        kind, _, offset, address, _, length = struct.unpack("<IIQQQQ", file.read(40))
        yield _Segment(kind, offset, address, length)


def _dynamic(file: BinaryIO, segments: Sequence[_Segment]) -> Iterator[tuple[int, int]]:
    """Tags and values of the dynamic section."""
    for segment in segments:
        if segment.kind == _DYNAMIC:
            file.seek(segment.offset)
            for tag, value in struct.iter_unpack("<QQ", file.read(segment.size // 16 * 16)):
                if tag == _END:
                    return
                yield tag, value


def _offset(segments: Sequence[_Segment], address: int) -> int:
    """Where in the file an address lies."""
    for segment in segments:
        if segment.kind == _LOAD and segment.address <= address < segment.address + segment.size:
            return segment.offset + address - segment.address
    raise ValueError(f"no segment holds the address {address:#x}")


NO_DRIVER = (
    "install NVIDIA's driver; in a container, start it with --gpus all (on a Jetson --runtime "
    "nvidia)"
)
_NO_DEVICE = 100


def load_driver() -> Any | None:
    """The driver's library; None where there is none."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def require_gpu(driver: Any, device: int, cuda: str, cure: str) -> str:
    """The name of GPU `device`.

    cuda: version that the program was built for, e.g. `13.0`; empty where nobody knows. cure: how
    to get one that fits an older driver. Raises BackendUnavailable where the driver is older, does
    not start, or shows no such GPU.
    """
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)) == 0:
        # Within a major version, programs run with an older driver too.
        own, wanted = number.value // 1000, cuda.split(".")[0]
        if wanted.isdigit() and own < int(wanted):
            raise BackendUnavailable(
                f"the NVIDIA driver here is for CUDA {own}.{number.value % 1000 // 10}, ONNX "
                f"Runtime for {cuda}; update the driver, or {cure}"
            )
    code = int(driver.cuInit(0))
    if code not in (0, _NO_DEVICE):
        raise BackendUnavailable(
            f"the NVIDIA driver does not start here (CUDA error {code}); {NO_DRIVER}"
        )
    count = 0
    if code == 0 and driver.cuDeviceGetCount(ctypes.byref(number)) == 0:
        count = number.value
    if count == 0:
        raise BackendUnavailable(
            "the NVIDIA driver shows no GPU to this process; look at CUDA_VISIBLE_DEVICES, and in "
            "a container start it with --gpus all"
        )
    if not 0 <= device < count:
        raise BackendUnavailable(f"there is no GPU {device} here; choose one of 0 to {count - 1}")
    return _name(driver, device)


def _name(driver: Any, index: int) -> str:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    return name.value.decode(errors="replace")


_MODULES = ("cuda.bindings.runtime", "cuda.cudart")
"""Since 12.6, which comes in time for JetPack 6, and before. 13 has lost the second name."""
_INSTALL = (
    "run pip install 'cuda-python>=12.6,<13' for a driver of CUDA 12, such as JetPack 6 has, or "
    "pip install 'cuda-python>=13' for a newer one"
)
_OLDEST = 12000
"""Of the runtime that cuda-python was built for; before, recorded graphs had another call."""
_INSUFFICIENT_DRIVER = 35


def load_runtime() -> Any:
    """The module with CUDA's runtime; BackendUnavailable where there is none that can be used."""
    errors: list[ImportError] = []
    for name in _MODULES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of 12.x about the older name
                module = importlib.import_module(name)
        except ImportError as error:
            errors.append(error)
        else:
            return _recent(module)
    if load_driver() is None:
        # Whoever has no driver need not install anything to learn that.
        raise BackendUnavailable(f"no NVIDIA driver is running here; {NO_DRIVER}") from errors[0]
    broken = [error for error in errors if not isinstance(error, ModuleNotFoundError)]
    if broken:
        reason = " ".join(str(broken[0]).split())
        raise BackendUnavailable(
            f"cuda-python is installed but does not load ({reason}); {_INSTALL}"
        ) from broken[0]
    raise BackendUnavailable(f"cuda-python is not installed here; {_INSTALL}") from errors[0]


def _recent(module: Any) -> Any:
    version = _version(module, "cudaRuntimeGetVersion")
    if version is not None and version < _OLDEST:
        raise BackendUnavailable(
            f"cuda-python is for CUDA {_dotted(version)}, at least 12.0 was wanted; {_INSTALL}"
        )
    return module


def require_device(runtime: Any, device: int) -> None:
    """BackendUnavailable unless the driver runs and has a GPU of this number."""
    try:
        status, count = runtime.cudaGetDeviceCount()
    except RuntimeError as error:  # cuda-python before 12.6 loads the driver here
        raise BackendUnavailable(f"no NVIDIA driver is running here; {NO_DRIVER}") from error
    code = int(status)
    driver = _version(runtime, "cudaDriverGetVersion")
    if code == _INSUFFICIENT_DRIVER and driver:
        needed = _version(runtime, "cudaRuntimeGetVersion") or _OLDEST
        raise BackendUnavailable(
            f"the NVIDIA driver here is for CUDA {_dotted(driver)}, cuda-python for "
            f"{_dotted(needed)}; update the driver, or {_INSTALL}"
        )
    if code == _INSUFFICIENT_DRIVER:
        raise BackendUnavailable(f"no NVIDIA driver is running here; {NO_DRIVER}")
    if code == _NO_DEVICE or (code == 0 and count == 0):
        raise BackendUnavailable(
            "the NVIDIA driver shows no GPU to this process; look at CUDA_VISIBLE_DEVICES, and "
            "in a container start it with --gpus all"
        )
    if code != 0:
        raise BackendUnavailable(f"CUDA does not start here: {say(runtime, status)}; {NO_DRIVER}")
    if not 0 <= device < count:
        raise BackendUnavailable(f"there is no GPU {device} here; choose one of 0 to {count - 1}")


def say(runtime: Any, status: Any) -> str:
    """An error of CUDA as it calls it, in words."""
    _, text = runtime.cudaGetErrorString(status)
    words = text.decode() if isinstance(text, bytes) else str(text)
    return f"{words} (CUDA error {int(status)})"


def _version(runtime: Any, function: str) -> int | None:
    """1000 x major + 10 x minor; 0 for a driver that is not there, None where nobody can tell."""
    try:
        status, version = getattr(runtime, function)()
    except RuntimeError:
        return None
    return int(version) if int(status) == 0 else None


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


_OUT_OF_MEMORY = 2


class CudaHandle:
    """Something that CUDA made; given back by `free`, or when nobody holds it any more."""

    def __init__(self, handle: Any, release: Callable[[Any], object]) -> None:
        self.handle = handle
        self._finalizer = weakref.finalize(self, release, handle)
        self._finalizer.atexit = False  # the end of the process frees all, and CUDA may be gone

    def free(self) -> None:
        """Give it back now; a second time does nothing."""
        self._finalizer()


class Memory(CudaHandle):
    """Memory of the device; `handle` is its address."""


class HostMemory(CudaHandle):
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

    def stream(self) -> CudaHandle:
        """A queue of work that does not wait for other queues."""
        (stream,) = self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        return CudaHandle(stream, self._release("cudaStreamDestroy"))

    def copy_in(self, to: Memory, source: HostMemory, nbytes: int, stream: CudaHandle) -> None:
        """Queue a copy from the host; the source is read at some time before `synchronise`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", to.handle, source.handle, nbytes, kind, stream.handle)

    def copy_out(self, to: HostMemory, source: Memory, nbytes: int, stream: CudaHandle) -> None:
        """Queue a copy to the host; it is there after `synchronise`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", to.handle, source.handle, nbytes, kind, stream.handle)

    def synchronise(self, stream: CudaHandle) -> None:
        """Wait until all that was queued is done."""
        self._call("cudaStreamSynchronize", stream.handle)

    def record(self, stream: CudaHandle, work: Callable[[], None]) -> CudaHandle:
        """What `work` queues, as a CUDA graph, which can be launched again and again; not done yet.

        What is raised in `work` goes through; the stream is in order then.
        """
        # Other threads may allocate meanwhile; only calls of this one could break the recording.
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
        return CudaHandle(executable, self._release("cudaGraphExecDestroy"))

    def launch(self, graph: CudaHandle, stream: CudaHandle) -> None:
        """Queue what was recorded."""
        self._call("cudaGraphLaunch", graph.handle, stream.handle)

    def _stop_recording(self, stream: CudaHandle) -> None:
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
