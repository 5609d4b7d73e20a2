"""Whether an execution provider for NVIDIA GPUs can work here, found out before it is tried.

ONNX Runtime lists the providers that were compiled in, whether they can work or not. One that
cannot is reported on stderr, and the session runs on the CPU instead.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

from ifmmin.runtime.backends.gpu_driver import NO_DRIVER, load_driver, require_gpu
from ifmmin.runtime.backends.shared_libraries import missing_libraries
from ifmmin.runtime.errors import BackendUnavailable

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
_LIBRARIES = {CUDA: "cuda", TENSORRT: "tensorrt"}
_TITLES = {CUDA: "CUDA", TENSORRT: "TensorRT"}
_WITH_CUDA = "onnxruntime-gpu[cuda,cudnn]"
_UP_TO_CUDA_12 = "<1.27"
"""Later wheels of PyPI are for CUDA 13."""


def require_provider(ort: Any, provider: str, device: int) -> str:
    """The name of the GPU that the provider will run on.

    Loads CUDA's libraries where pip has put them. Raises BackendUnavailable where the provider was
    not compiled in, a library or the driver is missing, or there is no such GPU.
    """
    _require_compiled_in(ort, provider)
    _preload(ort)
    driver = load_driver()
    missing = _missing(ort, provider)
    if driver is None and "libcuda.so.1" not in missing:
        missing.append("the NVIDIA driver")
    if missing:
        raise BackendUnavailable(
            f"ONNX Runtime {ort.__version__} cannot load its {_TITLES[provider]} provider: "
            f"{', '.join(missing)} not found; {'; '.join(_cures(ort, missing, driver is None))}"
        )
    return require_gpu(
        driver, device, _cuda(ort), f"run {_install('onnxruntime-gpu' + _UP_TO_CUDA_12)}"
    )


def _require_compiled_in(ort: Any, provider: str) -> None:
    available = list(ort.get_available_providers())
    if provider in available:
        return
    have = ", ".join(name.removesuffix("ExecutionProvider") for name in available)
    if platform.machine() == "aarch64":
        # Wheels of PyPI hold no code for Jetson Orin, and lack the provider of TensorRT.
        cure = "on a Jetson, take the backend tensorrt, which needs JetPack alone"
    else:
        cure = "run pip uninstall onnxruntime, then pip install 'ifmmin[gpu]'"
    raise BackendUnavailable(
        f"ONNX Runtime {ort.__version__} has no {_TITLES[provider]} provider here, only {have}; "
        f"{cure}"
    )


def _preload(ort: Any) -> None:
    """Load what pip installed beside ONNX Runtime, which the loader would not find."""
    preload = getattr(ort, "preload_dlls", None)  # since 1.21
    if preload is not None:
        # It prints what is missing, and warns of a plugin that it cannot register.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            preload()


def _missing(ort: Any, provider: str) -> list[str]:
    folder = Path(ort.__file__).parent / "capi"
    tensorrt = importlib.util.find_spec("tensorrt_libs")
    places = [Path(place) for place in (tensorrt and tensorrt.submodule_search_locations) or ()]
    found: list[str] = []
    # TensorRT leaves to CUDA what it cannot run.
    for name in dict.fromkeys((provider, CUDA)):
        path = folder / f"libonnxruntime_providers_{_LIBRARIES[name]}.so"
        if name == TENSORRT and sys.platform == "linux" and not path.is_file():
            found.append(path.name)  # wheels for arm64 name it and do not bring it
        found += missing_libraries(path, places)
    return list(dict.fromkeys(found))


def _cures(ort: Any, missing: list[str], no_driver: bool) -> list[str]:
    """What to do about each kind of thing that is missing."""
    tensorrt = [n for n in missing if n.startswith(("libnvinfer", "libnvonnxparser"))]
    other = [n for n in missing if n not in tensorrt and "libcuda.so" not in n and " " not in n]
    major = _cuda(ort).split(".")[0]
    cures = [NO_DRIVER] if no_driver else []
    if other and major == "12":
        cures.append(f"for CUDA 12 run {_install(_WITH_CUDA + _UP_TO_CUDA_12)}")
    elif other:
        cures.append(f"for CUDA {major or 'of its version'} run {_install(_WITH_CUDA)}")
        cures.append(f"on a machine of CUDA 12 run {_install(_WITH_CUDA + _UP_TO_CUDA_12)}")
    if tensorrt:
        version = tensorrt[0].rsplit(".", 1)[-1]
        below = f"<{int(version) + 1}" if version.isdigit() else ""
        cures.append(f"for TensorRT {version} run {_install(f'tensorrt-cu{major}{below}')}")
    return cures


def _install(package: str) -> str:
    return f"pip install '{package}'"


def _cuda(ort: Any) -> str:
    """Version of CUDA that ONNX Runtime was built for, e.g. `13.0`; empty where it does not say."""
    return str(getattr(ort, "cuda_version", "") or "")
