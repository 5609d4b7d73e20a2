"""Finds CUDA's runtime through cuda-python, and a GPU; or says why there is none and what to do."""

from __future__ import annotations

import ctypes
import importlib
import sys
import warnings
from typing import Any

from ifmmin.runtime.errors import BackendUnavailable

_MODULES = ("cuda.bindings.runtime", "cuda.cudart")
"""Since 12.6, which comes in time for JetPack 6, and before. 13 has lost the second name."""
_INSTALL = (
    "run pip install 'cuda-python>=12.6,<13' for a driver of CUDA 12, such as JetPack 6 has, or "
    "pip install 'cuda-python>=13' for a newer one"
)
_DRIVER = (
    "install NVIDIA's driver; in a container, start it with --gpus all (on a Jetson --runtime "
    "nvidia)"
)
_OLDEST = 12000
"""Of the runtime that cuda-python was built for; before, recorded graphs had another call."""
_INSUFFICIENT_DRIVER = 35
_NO_DEVICE = 100


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
    if not _driver_is_there():
        # Whoever has no driver need not install anything to learn that.
        raise BackendUnavailable(f"no NVIDIA driver is running here; {_DRIVER}") from errors[0]
    broken = [error for error in errors if not isinstance(error, ModuleNotFoundError)]
    if broken:
        reason = " ".join(str(broken[0]).split())
        raise BackendUnavailable(
            f"cuda-python is installed but does not load ({reason}); {_INSTALL}"
        ) from broken[0]
    raise BackendUnavailable(f"cuda-python is not installed here; {_INSTALL}") from errors[0]


def _driver_is_there() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


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
        raise BackendUnavailable(f"no NVIDIA driver is running here; {_DRIVER}") from error
    code = int(status)
    driver = _version(runtime, "cudaDriverGetVersion")
    if code == _INSUFFICIENT_DRIVER and driver:
        needed = _version(runtime, "cudaRuntimeGetVersion") or _OLDEST
        raise BackendUnavailable(
            f"the NVIDIA driver here is for CUDA {_dotted(driver)}, cuda-python for "
            f"{_dotted(needed)}; update the driver, or {_INSTALL}"
        )
    if code == _INSUFFICIENT_DRIVER:
        raise BackendUnavailable(f"no NVIDIA driver is running here; {_DRIVER}")
    if code == _NO_DEVICE or (code == 0 and count == 0):
        raise BackendUnavailable(
            "the NVIDIA driver shows no GPU to this process; look at CUDA_VISIBLE_DEVICES, and "
            "in a container start it with --gpus all"
        )
    if code != 0:
        raise BackendUnavailable(f"CUDA does not start here: {say(runtime, status)}; {_DRIVER}")
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
