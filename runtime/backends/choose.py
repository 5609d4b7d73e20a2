"""From a backend's name to the backend."""

from __future__ import annotations

from ifmmin.runtime.backends.base import Backend
from ifmmin.runtime.backends.onnx_runtime import OnnxRuntimeCpu
from ifmmin.runtime.errors import InputError

BACKENDS: dict[str, type[OnnxRuntimeCpu]] = {OnnxRuntimeCpu.name: OnnxRuntimeCpu}


def choose(name: str, threads: int) -> Backend:
    """The backend called `name`; `auto` takes the first that runs here.

    Raises InputError for an unknown name and BackendUnavailable for one that cannot run.
    """
    if name == "auto":
        name = OnnxRuntimeCpu.name
    if name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}; use auto or one of {', '.join(BACKENDS)}")
    return BACKENDS[name](threads=threads)
