"""ONNX Runtime on the CPU, and sessions as all its backends open them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ..bundle import Bundle, GraphEntry
from ..errors import BackendUnavailable, one_line
from .base import Backend, LoadedGraph, Runner

CPU = "CPUExecutionProvider"
UNKNOWN = "this version of ONNX Runtime does not tell what runs where"
"""A note where `Placement.nodes` is empty."""


_EMPTY = (
    "its files are not in its folder, as after one of two packages that share it was uninstalled; "
    "uninstall the other as well"
)


def load_onnxruntime(cure: str) -> Any:
    """The module; BackendUnavailable with the cure where it is absent or broken."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise _broken(error, cure) from error
        raise BackendUnavailable(f"ONNX Runtime is not installed; {cure}") from error
    except Exception as error:  # a broken package may raise anything
        raise _broken(error, cure) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise _broken(ImportError(_EMPTY), cure)
    # Who imported it before ifmmin has its telemetry on; from here on it sends no more events.
    if quiet := getattr(onnxruntime, "disable_telemetry_events", None):
        quiet()
    return onnxruntime


def _broken(error: Exception, cure: str) -> BackendUnavailable:
    return BackendUnavailable(f"ONNX Runtime does not load ({one_line(error)}); {cure}")


def session_options(ort: Any, threads: int, *, spinning: bool = False) -> Any:
    """Options of a session that says nothing on stdout and stderr and records where nodes go."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    # Kept while the graph is divided, not while it runs; unknown to old versions, and ignored.
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 4  # what fails is raised
    return options


def make_session(ort: Any, graph: bytes, options: Any, providers: Sequence[Any]) -> Any:
    """A session that fails where a provider fails.

    Without `enable_fallback` ONNX Runtime would print the reason and go on, on the CPU: here, and
    again when a run fails.
    """
    return ort.InferenceSession(graph, options, providers=list(providers), enable_fallback=False)


@dataclass(frozen=True)
class Placement:
    """Where the nodes of a session went, as they were before the providers fused them."""

    operators: Mapping[str, Counter[str]]
    """Per execution provider, how many nodes of each type; empty where nobody can tell."""

    @property
    def nodes(self) -> dict[str, int]:
        """Number of nodes per execution provider."""
        return {provider: types.total() for provider, types in self.operators.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know."""
        return () if self.operators else (UNKNOWN,)


def placement_of(session: Any) -> Placement:
    """Where the nodes went; nowhere in versions that record nothing (1.20 is one of them)."""
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    operators: dict[str, Counter[str]] = {}
    for part in ask() if ask else ():
        types = operators.setdefault(str(part.ep_name), Counter())
        types.update(str(node.op_type) for node in part.get_nodes())
    return Placement(operators)


def runner_of(session: Any) -> Runner:
    """Runs a session; inputs and outputs lie in memory of the CPU, and outputs are the caller's."""
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
        self._run = session.run
        self._names = [output.name for output in session.get_outputs()]
        """Told in every call, or the session would ask itself for them."""

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = self._run(self._names, inputs)
        return outputs


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

    def open(self, bundle: Bundle, entry: GraphEntry) -> LoadedGraph:
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
        return LoadedGraph(runner_of(session), entry, placement.nodes, placement.notes)

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
