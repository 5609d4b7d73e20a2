"""From a backend's name to the backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ifmmin.runtime.backends.base import Backend
from ifmmin.runtime.errors import InputError


@dataclass(frozen=True)
class BackendOptions:
    """What a backend may be told."""

    threads: int = 1
    """Threads inside one call, for backends on the CPU."""
    spinning: bool = False
    """Whether threads wait for the next call busily: sooner there, at the cost of a core."""
    device: int = 0
    """Which GPU."""
    cache: Path | None = None
    """Directory of engines and choices; None: the user's cache."""
    progress: Callable[[str], None] | None = None
    """Hears what a long build is doing."""


_DEFAULT = BackendOptions()


def _onnxruntime_cpu(options: BackendOptions = _DEFAULT) -> Backend:
    return _new("onnx_runtime", "OnnxRuntimeCpu", options.threads, spinning=options.spinning)


def _onnxruntime_cuda(options: BackendOptions = _DEFAULT) -> Backend:
    return _new("onnx_runtime_gpu", "OnnxRuntimeCuda", device_id=options.device)


def _onnxruntime_tensorrt(options: BackendOptions = _DEFAULT) -> Backend:
    more = {"device_id": options.device, "cache": options.cache}
    return _new("onnx_runtime_gpu", "OnnxRuntimeTensorrt", **more)


def _tensorrt(options: BackendOptions = _DEFAULT) -> Backend:
    more = {"device": options.device, "cache": options.cache, "progress": options.progress}
    return _new("tensorrt", "Tensorrt", **more)


def _tensorrt_rtx(options: BackendOptions = _DEFAULT) -> Backend:
    more = {"device": options.device, "cache": options.cache, "progress": options.progress}
    return _new("tensorrt", "TensorrtRtx", **more)


def _openvino(options: BackendOptions = _DEFAULT) -> Backend:
    return _new("openvino", "OpenVino", options.threads)


BACKENDS: dict[str, Callable[..., Backend]] = {
    "onnxruntime-cpu": _onnxruntime_cpu,
    "onnxruntime-cuda": _onnxruntime_cuda,
    "onnxruntime-tensorrt": _onnxruntime_tensorrt,
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx,
    "openvino": _openvino,
}
"""What makes each backend, given its options. Their modules are imported when asked for."""


def make_backend(name: str, options: BackendOptions | None = None) -> Backend:
    """The backend called `name`.

    Raises InputError for an unknown name and BackendUnavailable for one that cannot run here.
    """
    if name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}; use auto or one of {', '.join(BACKENDS)}")
    return BACKENDS[name](options or BackendOptions())


def _new(module: str, kind: str, *arguments: Any, **options: Any) -> Backend:
    found = getattr(import_module(f"ifmmin.runtime.backends.{module}"), kind)
    backend: Backend = found(*arguments, **options)
    return backend
