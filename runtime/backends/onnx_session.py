"""What every backend of ONNX Runtime shares: options, sessions, and where their nodes went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ifmmin.runtime.backends.base import Runner
from ifmmin.runtime.check import one_line
from ifmmin.runtime.errors import BackendUnavailable

CPU = "CPUExecutionProvider"
UNKNOWN = "this version of ONNX Runtime does not tell what runs where"
"""A note where `Placement.nodes` is empty."""


def load_onnxruntime(cure: str) -> Any:
    """The module; BackendUnavailable with the cure where it is absent or broken."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise _broken(error, cure) from error
        raise BackendUnavailable(f"ONNX Runtime is not installed; {cure}") from error
    except (ImportError, OSError) as error:
        raise _broken(error, cure) from error
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
