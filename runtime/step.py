"""Streams of one modality: what a step graph is told, and what it has to be told again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends import Runner
from ifmmin.runtime.manifest import StateSpec, TensorSpec


class StepInterface(Protocol):
    """What a step graph takes and gives, as its manifest entry says."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """`frames`, then the states."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """`pooled` and the next states."""
        ...

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """What is kept from call to call."""
        ...


class ModalityStream:
    """What one modality has said so far in some streams that move on together.

    entry, run: of a step graph and its loaded form. streams: B. The first chunk must hold at least
    the modality's `minimum_length` frames, any later one at least one: the caller collects them.
    """

    def __init__(self, entry: StepInterface, run: Runner, streams: int = 1) -> None:
        self._entry = entry
        self._run = run
        self._kept = initial_states(entry, streams)

    def push(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """New frames (B, N, D) -> what is pooled (B, P) of all frames so far, for a summary graph.

        When the graph fails nothing has changed: the same frames may be given again.
        """
        outputs = self._run({"frames": np.ascontiguousarray(frames), **self._kept})
        names = (spec.name for spec in self._entry.outputs)
        found = dict(zip(names, outputs, strict=True))
        self._kept = {state.name: found[state.output] for state in self._entry.states}
        pooled: NDArray[np.float32] = found["pooled"]
        return pooled


def initial_states(entry: StepInterface, streams: int = 1) -> dict[str, NDArray[Any]]:
    """What a step graph is given with the first chunk of some streams, by the names of inputs."""
    types = {spec.name: spec.dtype for spec in entry.inputs}
    return {
        state.name: np.full(_sized(state.initial_shape, streams), state.initial, types[state.name])
        for state in entry.states
    }


def _sized(shape: Sequence[int | str], streams: int) -> tuple[int, ...]:
    """The shape with the number of streams in its one free place."""
    return tuple(streams if isinstance(size, str) else size for size in shape)
