"""Backends: the interface of an engine, what it may be told, and the registry of names."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from ..bundle import Bundle, GraphEntry
from ..errors import BackendUnavailable, InputError


class Runner(Protocol):
    """A loaded graph. Not for use from two threads at once."""

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs in the order of the graph, given conforming arrays by the names of inputs."""
        ...


@dataclass(frozen=True)
class LoadedGraph:
    """A graph of a bundle that is ready to run, and where it runs."""

    run: Runner
    entry: GraphEntry
    placement: Mapping[str, int] = field(default_factory=dict)
    """Number of nodes by what executes them, e.g. `CPUExecutionProvider`; of an engine that is one
    whole, its name and its number of layers."""
    notes: tuple[str, ...] = ()
    """What the user should know, such as a CUDA graph that was given up."""


class Backend(ABC):
    """An engine on this device. The constructor raises BackendUnavailable where it cannot run."""

    name: str
    """As in `Predictor(backend=...)` and in every answer."""

    @abstractmethod
    def open(self, bundle: Bundle, entry: GraphEntry) -> LoadedGraph:
        """Make a graph of a bundle ready, after its hash was found right.

        Raises BackendUnavailable where this graph cannot run on this engine here.
        """


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
    return _new("onnxruntime", "OnnxRuntimeCpu", options.threads, spinning=options.spinning)


def _onnxruntime_cuda(options: BackendOptions = _DEFAULT) -> Backend:
    return _new("onnxruntime_gpu", "OnnxRuntimeCuda", device_id=options.device)


def _onnxruntime_tensorrt(options: BackendOptions = _DEFAULT) -> Backend:
    more = {"device_id": options.device, "cache": options.cache}
    return _new("onnxruntime_gpu", "OnnxRuntimeTensorrt", **more)


def _tensorrt(options: BackendOptions = _DEFAULT) -> Backend:
    more = {"device": options.device, "cache": options.cache, "progress": options.progress}
    return _new("tensorrt", "Tensorrt", **more)


def _tensorrt_rtx(options: BackendOptions = _DEFAULT) -> Backend:
    more = {"device": options.device, "cache": options.cache, "progress": options.progress}
    return _new("tensorrt", "TensorrtRtx", **more)


def _openvino(options: BackendOptions = _DEFAULT) -> Backend:
    return _new("openvino", "OpenVino", options.threads)


BACKENDS: dict[str, Callable[..., Backend]] = {
    "onnxruntime-cpu": _onnxruntime_cpu, "onnxruntime-cuda": _onnxruntime_cuda,
    "onnxruntime-tensorrt": _onnxruntime_tensorrt, "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx, "openvino": _openvino,
}  # fmt: skip
"""What makes each backend, given its options. Their modules are imported when asked for."""


_FORKABLE = "onnxruntime-cpu"
"""Opens new sessions in a forked child as in any process; others have threads or a GPU that began
in the parent."""
_started: set[str] = set()
inherited: set[str] = set()
"""Backends that cannot run in this process, since one that it was forked from had begun them."""


def _in_child() -> None:
    inherited.update(_started - {_FORKABLE})


if hasattr(os, "register_at_fork"):  # not on every system
    os.register_at_fork(after_in_child=_in_child)


def make_backend(name: str, options: BackendOptions | None = None) -> Backend:
    """The backend called `name`.

    Raises InputError for an unknown name and BackendUnavailable for one that cannot run here.
    """
    if name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}; use auto or one of {', '.join(BACKENDS)}")
    if name in inherited:
        raise BackendUnavailable(
            f"{name} was in use when this process was forked, and works on one side only; make the "
            f"first Predictor after the fork, start processes by spawn, or take {_FORKABLE}"
        )
    _started.add(name)
    return BACKENDS[name](options or BackendOptions())


def _new(module: str, kind: str, *arguments: Any, **options: Any) -> Backend:
    found = getattr(import_module(f"ifmmin.runtime.backends.{module}"), kind)
    backend: Backend = found(*arguments, **options)
    return backend
