"""OpenVINO on the CPU."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from numpy.typing import NDArray

from ..bundle import Bundle, GraphEntry
from ..errors import BackendUnavailable, one_line
from .base import Backend, LoadedGraph, Runner

_DEVICE = "CPU"
_CURE = "run pip install 'ifmmin[openvino]'"
_KEPT = 500
"""Compiled operators that are kept, each for one length of its input; as OpenVINO has it by
default, 5,000, an utterance of every new length costs memory for hundreds of megabytes."""
_IDLE = ("Const", "Input", "Output")
"""What OpenVINO counts among the nodes of a compiled graph and does not run."""


class OpenVino(Backend):
    """OpenVINO's CPU plugin.

    threads: how many compute inside one call. They are not bound to cores, which two processes
    that start alike would otherwise share.

    Raises BackendUnavailable where OpenVINO is not installed, does not load or has no CPU plugin.
    """

    name = "openvino"

    def __init__(self, threads: int = 1) -> None:
        openvino = load_openvino()
        try:
            self._version = str(openvino.__version__).split("-")[0]
            self._core: Any = openvino.Core()
            devices = list(self._core.available_devices)
        except Exception as error:  # a broken package may raise anything
            raise _broken(error) from error
        if _DEVICE not in devices:
            raise BackendUnavailable(
                f"OpenVINO {self._version} has no CPU plugin here, only "
                f"{', '.join(devices) or 'none at all'}; {_CURE}"
            )
        with suppress(RuntimeError):  # of a version that knows no such limit
            self._core.set_property(_DEVICE, {"CPU_RUNTIME_CACHE_CAPACITY": _KEPT})
        self._properties: dict[str, Any] = {
            "EXECUTION_MODE_HINT": "ACCURACY", "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }  # fmt: skip

    def open(self, bundle: Bundle, entry: GraphEntry) -> LoadedGraph:
        """Compile a graph of a bundle. Raises BackendUnavailable where OpenVINO cannot."""
        graph = bundle.graph(entry)
        try:
            compiled = self._compile(graph)
        except Exception as error:  # OpenVINO raises RuntimeError, and others of pybind11
            raise BackendUnavailable(
                f"OpenVINO {self._version} cannot run {entry.file} ({one_line(error)}); "
                "update it with pip install -U openvino, or take the backend onnxruntime-cpu"
            ) from error
        return LoadedGraph(_Run(compiled), entry, {_DEVICE: _count(compiled)})

    def load(self, graph: bytes) -> Runner:
        """Compile a graph; whatever OpenVINO raises of it passes through."""
        return _Run(self._compile(graph))

    def _compile(self, graph: bytes) -> Any:
        model = self._core.read_model(model=graph)
        return self._core.compile_model(model, _DEVICE, self._properties)


def load_openvino() -> Any:
    """The module, without its telemetry; BackendUnavailable where it is absent or broken."""
    try:
        with _without_telemetry():
            return importlib.import_module("openvino")
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise _broken(error) from error
        raise BackendUnavailable(f"OpenVINO is not installed; {_CURE}") from error
    except Exception as error:  # a broken package may raise anything
        raise _broken(error) from error


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Let no import find OpenVINO's telemetry. It has no variable that turns it off, and sends a
    message as soon as OpenVINO is imported; where its package is absent OpenVINO does without."""
    name = "openvino_telemetry"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # what `import` takes for absent
    try:
        yield
    finally:
        del sys.modules[name]


def _broken(error: Exception) -> BackendUnavailable:
    return BackendUnavailable(
        f"OpenVINO is installed but does not load ({one_line(error)}); {_CURE} --force-reinstall"
    )


def _count(compiled: Any) -> int:
    """Nodes that run, after fusion."""
    kinds = [op.get_rt_info()["layerType"].value for op in compiled.get_runtime_model().get_ops()]
    return sum(kind not in _IDLE for kind in kinds)


class _Run:
    """A compiled graph with a request of its own, which holds the memory of one call."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._count = len(compiled.outputs)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        # Inputs are read where they lie; outputs are copied, since the next call writes over them.
        found = self._request.infer(dict(inputs), share_inputs=True, share_outputs=False)
        return [found[index] for index in range(self._count)]
