"""The interface between the predictor and an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray


class Runner(Protocol):
    """A loaded graph. Not for use from two threads at once."""

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs in the order of the graph, given conforming arrays by the names of inputs."""
        ...


class Backend(ABC):
    """An engine on this device. The constructor raises BackendUnavailable where it cannot run."""

    name: str
    """As in `Predictor(backend=...)` and in every answer."""

    @abstractmethod
    def load(self, graph: bytes) -> Runner:
        """Make a runner of an ONNX graph whose hash was already checked."""
