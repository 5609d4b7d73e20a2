"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ifmmin.runtime.backends.base import Backend, Loaded, Runner
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import BackendUnavailable
from ifmmin.runtime.manifest import GraphEntry


class OnnxRuntimeCpu(Backend):
    """ONNX Runtime's CPU execution provider.

    `threads` is the number of threads inside one call; they do not spin while idle, so that the
    device's other work keeps its cores.
    """

    name = "onnxruntime-cpu"

    def __init__(self, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendUnavailable(
                "ONNX Runtime is not installed; run pip install 'ifmmin[cpu]', "
                "or 'ifmmin[gpu]' on a machine with an NVIDIA GPU"
            ) from error
        self._ort: Any = onnxruntime
        self._threads = threads

    def open(self, bundle: Bundle, entry: GraphEntry) -> Loaded:
        """Make a session of a graph of a bundle."""
        return Loaded(self.load(bundle.graph(entry)), entry)

    def load(self, graph: bytes, *, literal: bool = False) -> Runner:
        """Make a session of the graph.

        literal: compute what is written. For graphs that are made for other engines: the kernels
        into which Q/DQ pairs are fused here saturate on x86 without VNNI.
        """
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if literal:
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 4  # what fails is raised
        session = self._ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        shapes = [size for output in session.get_outputs() for size in output.shape]
        return _Fixed(session) if all(isinstance(n, int) for n in shapes) else _Free(session)


class _Fixed:
    """A session whose outputs have fixed shapes: bound once, which is cheaper than `run`."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._binding = session.io_binding()
        for output in session.get_outputs():
            self._binding.bind_output(output.name)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        for name, array in inputs.items():
            self._binding.bind_cpu_input(name, array)
        self._session.run_with_iobinding(self._binding)
        outputs: list[NDArray[Any]] = self._binding.copy_outputs_to_cpu()
        return outputs


class _Free:
    """A session whose outputs take another shape at every call; a binding would keep the first."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = self._session.run(None, dict(inputs))
        return outputs
