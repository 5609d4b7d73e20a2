"""Patterns answered from shared graphs: every encoder is loaded once, whatever it is needed for.

A latency graph is one call and holds its own copy of all weights. From a stream's graphs (step and
summary of each modality, head of each pattern) the same answer takes a few microseconds more, and
seven patterns hold hardly more than one: for a robot that must be ready for any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends import Loaded, Runner
from ifmmin.runtime.manifest import GraphEntry
from ifmmin.runtime.modality import Modality, Pattern

Open = Callable[[str, Pattern | Modality], Loaded]
"""Loads a graph of a shape for a pattern or modality."""


class SharedEncoders:
    """The steps and summaries of a bundle, each loaded at its first use."""

    def __init__(self, open_graph: Open) -> None:
        self._open = open_graph
        self._modalities: dict[Modality, _Encoder] = {}

    def pattern(self, pattern: Pattern) -> Loaded:
        """What answers a pattern like its latency graph, from shared encoders."""
        for modality in pattern:
            if modality not in self._modalities:
                step, summary = (self._open(shape, modality) for shape in ("step", "summary"))
                self._modalities[modality] = _Encoder(step.entry, step.run, summary.run)
        head = self._open("head", pattern)
        encoders = {modality.value: self._modalities[modality] for modality in pattern}
        placement = dict(head.placement)
        return Loaded(_Composed(encoders, head.run), head.entry, placement, head.notes)


class _Encoder:
    """One utterance of a modality through a step from the beginning, and its summary."""

    def __init__(self, entry: GraphEntry, step: Runner, summary: Runner) -> None:
        self._step = step
        self._summary = summary
        self._pooled = [spec.name for spec in entry.outputs].index("pooled")
        self._start = {
            state.name: np.full(
                [1 if isinstance(size, str) else size for size in state.initial_shape],
                state.initial,
                np.float32,
            )
            for state in entry.states
        }

    def __call__(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """(T, D) -> (1, S)."""
        outputs = self._step({"frames": frames[None], **self._start})
        made: NDArray[np.float32] = self._summary({"pooled": outputs[self._pooled]})[0]
        return made


class _Composed:
    """A pattern's graph in parts: (T, D) per modality -> logits (C,), as a latency graph."""

    def __init__(self, encoders: Mapping[str, _Encoder], head: Runner) -> None:
        self._encoders = encoders
        self._head = head

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        summaries = {name: self._encoders[name](frames) for name, frames in inputs.items()}
        return [self._head(summaries)[0][0]]
