"""A GPU for every Python process: the fakes, in the places of the real modules, by PYTHONPATH."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_FAKES = Path(__file__).resolve().parent
_MODULE = "import sys\nimport fake_gpu\nsys.modules[__name__] = fake_gpu.{make}\n"
_DRIVER = """
import ctypes
class CDLL(ctypes.CDLL):
    def __new__(cls, name=None, *arguments, **options):
        if name != "libcuda.so.1":
            return super().__new__(cls)
        from fake_onnxruntime import fake_driver
        return fake_driver({driver})
ctypes.CDLL = CDLL
"""


def gpu_environment(folder: Path, driver: int = 12060) -> Mapping[str, str]:
    """Environment of a process that finds CUDA, TensorRT, TensorRT-RTX and NVML.

    folder: to write modules to. driver: newest CUDA of the driver, 1000 x major + 10 x minor.
    """
    files = {
        "sitecustomize.py": _DRIVER.format(driver=driver),
        "cuda/__init__.py": "",
        "cuda/bindings/__init__.py": "",
        "cuda/bindings/runtime.py": _MODULE.format(make="cuda()"),
        "tensorrt.py": _MODULE.format(make="tensorrt('10.3.0')"),
        "tensorrt_rtx.py": _MODULE.format(make="tensorrt('1.7.1')"),
        "pynvml.py": _MODULE.format(make="nvml()"),
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    paths = [folder, _FAKES, _FAKES.parent / "support"]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}


def cuda() -> Any:
    """CUDA's runtime, one for the process."""
    from fake_cuda import FakeCuda

    global _cuda
    if _cuda is None:
        _cuda = _named(FakeCuda(), "cuda.bindings.runtime")
        _cuda.total = 1 << 36
    return _cuda


_cuda: Any = None


def tensorrt(version: str) -> Any:
    """TensorRT's module on that GPU."""
    from fake_tensorrt import FakeTensorrt

    return _named(FakeTensorrt(cuda(), version), "tensorrt")


def _named(module: Any, name: str) -> Any:
    module.__spec__ = ModuleSpec(name, None)  # torch asks every module for it
    return module


class nvml(ModuleType):  # noqa: N801 - it is called by the name of what it makes
    """NVML with one GPU of 25 W, which tells little else."""

    class NVMLError(Exception):
        """As the library names it."""

    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_CLOCK_MEM = 0, 1, 2

    def __init__(self) -> None:
        super().__init__("pynvml")

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlSystemGetDriverVersion(self) -> str:
        return "560.1"

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:
        return int(time.monotonic() * 25_000)

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:
        return 25_000

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvmlDevice"):
            raise AttributeError(name)

        def refuse(*_: Any) -> Any:
            raise self.NVMLError

        return refuse
