"""The interface between the predictor and an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.modality import Modality


class Runner(Protocol):
    """A loaded graph. Not for use from two threads at once."""

    def __call__(self, features: Mapping[Modality, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Logits (C,) of one utterance, given conforming arrays (T, D) of the pattern."""
        ...


class Backend(ABC):
    """An engine on this device. The constructor raises BackendUnavailable where it cannot run."""

    name: str
    """As in `Predictor(backend=...)` and in every answer."""

    @abstractmethod
    def load(self, graph: bytes) -> Runner:
        """Make a runner of an ONNX graph whose hash was already checked."""
