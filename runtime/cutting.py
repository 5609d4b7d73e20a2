"""Calls of any size on graphs of streams that take some sizes only, cut into calls that fit.

An engine refuses what lies outside of the sizes that it was built for. More streams, or more new
frames, than fit into one call run one after the other; the answers are those of one call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends import Loaded, Runner
from ifmmin.runtime.manifest import GraphEntry, ProfileSpec

Inputs = Mapping[str, NDArray[Any]]


def within(loaded: Loaded, profile: Mapping[str, ProfileSpec]) -> Loaded:
    """A step, summary or head graph for any number of streams, and a step for any number of frames.

    profile: the sizes that the loaded graph takes, of all its inputs; all count streams first.
    """
    run = loaded.run
    if loaded.entry.shape == "step":
        run = Frames(loaded.entry, run, profile)
    return replace(loaded, run=Rows(run, min(spec.maximum[0] for spec in profile.values())))


class Rows:
    """Runs a graph for at most `most` rows of its inputs (B, ...) at a time."""

    def __init__(self, run: Runner, most: int) -> None:
        self._run = run
        self._most = most

    def __call__(self, inputs: Inputs) -> list[NDArray[Any]]:
        """Outputs (B, ...), as of one call."""
        rows, most = len(next(iter(inputs.values()))), self._most
        if rows <= most:
            return self._run(inputs)
        outputs = [
            self._run({name: x[first : first + most] for name, x in inputs.items()})
            for first in range(0, rows, most)
        ]
        return [np.concatenate(column) for column in zip(*outputs, strict=True)]


class Frames:
    """Runs a step graph for at most as many new frames (B, N, D) at a time as a profile has.

    What such a graph keeps of the last frames (B, S, D) is empty before a stream's first call, and
    an engine takes one size S only. Only the graph knows what becomes of a frame that is kept: it
    may be standardised, raised or rounded first. So the first S frames go through it once for the
    sake of what it then keeps, which holds nothing else; all other states stay as they are. From
    there the other frames are heard, and every window is seen as in one call.
    """

    def __init__(self, entry: GraphEntry, run: Runner, profile: Mapping[str, ProfileSpec]) -> None:
        outputs = [spec.name for spec in entry.outputs]
        shapes = {spec.name: spec.shape for spec in entry.inputs}
        self._run = run
        self._most = profile["frames"].maximum[1]
        self._next = {state.name: outputs.index(state.output) for state in entry.states}
        self._kept = {
            name: profile[name].minimum[1]
            for name in self._next
            if isinstance(shapes[name][1], str)
        }
        """How many of the last frames are kept, by the states that keep them."""

    def __call__(self, inputs: Inputs) -> list[NDArray[Any]]:
        """Outputs (B, ...), as of one call."""
        frames = inputs["frames"]
        empty = [name for name, size in self._kept.items() if size and not inputs[name].shape[1]]
        begun = max((self._kept[name] for name in empty), default=0)
        # Too few to begin with are for the graph to refuse.
        if (begun == 0 and frames.shape[1] <= self._most) or frames.shape[1] <= begun:
            return self._run(inputs)
        states = {name: inputs[name] for name in self._next}
        if begun:
            states |= self._begin(_cut(frames, 0, begun), states, empty)
        outputs: list[NDArray[Any]] = []
        for first in range(begun, frames.shape[1], self._most):
            outputs = self._run({"frames": _cut(frames, first, first + self._most), **states})
            states = {name: outputs[index] for name, index in self._next.items()}
        return outputs

    def _begin(
        self, frames: NDArray[Any], states: Inputs, empty: list[str]
    ) -> dict[str, NDArray[Any]]:
        """What the empty states hold once they are full of the first frames."""
        blank = {
            name: np.zeros(
                (len(frames), self._kept[name], *states[name].shape[2:]), states[name].dtype
            )
            for name in empty
        }
        outputs = self._run({"frames": frames, **states, **blank})
        return {name: outputs[self._next[name]] for name in empty}


def _cut(frames: NDArray[Any], first: int, end: int) -> NDArray[Any]:
    """Some of the frames (B, N, D), as an array that any backend can bind."""
    return np.ascontiguousarray(frames[:, first:end])
