"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import Any

from ifmmin.runtime.backends.base import Backend, Loaded, Runner
from ifmmin.runtime.backends.onnx_session import (
    CPU,
    load_onnxruntime,
    make_session,
    placement_of,
    runner_of,
    session_options,
)
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.check import one_line
from ifmmin.runtime.errors import BackendUnavailable
from ifmmin.runtime.manifest import GraphEntry

_CURE = "run pip install 'ifmmin[cpu]', or 'ifmmin[gpu]' on a machine with an NVIDIA GPU"


class OnnxRuntimeCpu(Backend):
    """ONNX Runtime's CPU execution provider.

    threads: how many compute inside one call. spinning: whether they wait for the next call
    busily, which starts it sooner; by default the device's other work keeps its cores.

    Raises BackendUnavailable where ONNX Runtime is not installed or does not load.
    """

    name = "onnxruntime-cpu"

    def __init__(self, threads: int = 1, *, spinning: bool = False) -> None:
        self._ort: Any = load_onnxruntime(_CURE)
        self._threads = threads
        self._spinning = spinning

    def open(self, bundle: Bundle, entry: GraphEntry) -> Loaded:
        """Make a session of a graph of a bundle; one for other engines is computed literally.

        Raises BackendUnavailable where this version cannot run the graph.
        """
        graph = bundle.graph(entry)
        own = bundle.manifest.backends.get(self.name)
        literal = own is not None and entry.precision not in own.precisions
        try:
            session = self._session(graph, literal)
        except Exception as error:  # the types that it raises are private
            raise BackendUnavailable(
                f"ONNX Runtime {self._ort.__version__} cannot run {entry.file} "
                f"({one_line(error)}); update it with pip install -U onnxruntime"
            ) from error
        placement = placement_of(session)
        return Loaded(runner_of(session), entry, placement.nodes, placement.notes)

    def load(self, graph: bytes, *, literal: bool = False) -> Runner:
        """Make a session of the graph; whatever ONNX Runtime raises of it passes through.

        literal: compute what is written. For graphs that are made for other engines: the kernels
        into which Q/DQ pairs are fused here saturate on x86 without VNNI.
        """
        return runner_of(self._session(graph, literal))

    def _session(self, graph: bytes, literal: bool) -> Any:
        options = session_options(self._ort, self._threads, spinning=self._spinning)
        if literal:
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        return make_session(self._ort, graph, options, [CPU])
