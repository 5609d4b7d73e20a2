"""The interface between the predictor and an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.manifest import GraphEntry


class Runner(Protocol):
    """A loaded graph. Not for use from two threads at once."""

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs in the order of the graph, given conforming arrays by the names of inputs."""
        ...


@dataclass(frozen=True)
class Loaded:
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
    def open(self, bundle: Bundle, entry: GraphEntry) -> Loaded:
        """Make a graph of a bundle ready, after its hash was found right.

        Raises BackendUnavailable where this graph cannot run on this engine here.
        """
