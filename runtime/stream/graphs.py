"""Graphs of streams: steps and summaries per modality, heads per pattern, each loaded once.

Calls larger than a graph's profile are split; a step graph's first frames are told again where it
needs them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..backends import LoadedGraph, Runner
from ..bundle import GraphEntry, ProfileSpec, StateSpec
from ..bundle.graph_file import TensorSpec
from ..errors import InputError
from ..modality import Modality, Pattern
from ..process import abandon, register


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
        self.states = initial_states(entry, streams)
        """What the next call is given besides its frames, by the names of inputs."""

    def push(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """New frames (B, N, D) -> what is pooled (B, P) of all frames so far, for a summary graph.

        When the graph fails nothing has changed: the same frames may be given again.
        """
        outputs = self._run({"frames": np.ascontiguousarray(frames), **self.states})
        names = (spec.name for spec in self._entry.outputs)
        found = dict(zip(names, outputs, strict=True))
        self.states = {state.name: found[state.output] for state in self._entry.states}
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


Inputs = Mapping[str, NDArray[Any]]


def fit_to_profile(loaded: LoadedGraph, profile: Mapping[str, ProfileSpec]) -> LoadedGraph:
    """A graph for any number of streams or utterances, and a step for any number of frames.

    profile: the sizes that the loaded graph takes, of all its inputs; all count rows first.
    """
    run = loaded.run
    if loaded.entry.shape == "step":
        run = SplitFrames(loaded.entry, run, profile)
    return replace(loaded, run=SplitBatch(run, min(spec.maximum[0] for spec in profile.values())))


class SplitBatch:
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


class SplitFrames:
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


Open = Callable[[str, Pattern | Modality], LoadedGraph]
"""Loads a graph of a shape for a pattern or modality."""


@dataclass(frozen=True)
class EncoderGraphs:
    """The two graphs of a modality."""

    step: LoadedGraph
    summary: LoadedGraph


class StreamGraphs:
    """The stream graphs of a bundle by one backend, each loaded at its first use.

    lock: to be held while any of them is loaded or runs; what shares them takes turns. Nothing here
    takes it but `in_turn`: a stream holds it for several calls at once.
    """

    def __init__(self, open_graph: Open) -> None:
        self._open = open_graph
        self._encoders: dict[Modality, EncoderGraphs] = {}
        self._heads: dict[Pattern, LoadedGraph] = {}
        self.lock: AbstractContextManager[Any] = threading.Lock()
        register(self, StreamGraphs._refuse)

    def _refuse(self) -> None:
        """Refuse whoever wants the lock, which a thread of the parent may hold for ever."""
        abandon(self.__dict__.copy())
        self.lock = _Refusal()

    def encoder(self, modality: Modality) -> EncoderGraphs:
        """Step and summary of a modality."""
        if modality not in self._encoders:
            step, summary = (_apart(self._open(shape, modality)) for shape in ("step", "summary"))
            self._encoders[modality] = EncoderGraphs(step, summary)
        return self._encoders[modality]

    def head(self, pattern: Pattern) -> LoadedGraph:
        """The head of a pattern."""
        if pattern not in self._heads:
            self._heads[pattern] = _apart(self._open("head", pattern))
        return self._heads[pattern]

    def whole(self, pattern: Pattern) -> LoadedGraph:
        """What answers whole utterances of a pattern, as its latency graph does."""
        head = self.head(pattern)
        encoders = {m.value: _Encoder(self.encoder(m)) for m in pattern}
        return LoadedGraph(
            _ComposedGraph(encoders, head.run), head.entry, head.placement, head.notes
        )

    def in_turn(self, loaded: LoadedGraph) -> LoadedGraph:
        """One of these graphs, or a whole, that waits at every call until no other one runs."""
        return replace(loaded, run=_InTurn(loaded.run, self.lock))


def _apart(loaded: LoadedGraph) -> LoadedGraph:
    """The graph, one stream at a time where it finds the scale of its 8 bits in what it is given:
    the scale of a batch would let every stream change the answers of the others."""
    entry = loaded.entry
    if entry.precision == "int8" and entry.quantised:
        return replace(loaded, run=SplitBatch(loaded.run, 1))
    return loaded


class _Refusal:
    """In place of the lock of graphs that were loaded in a process before it was forked."""

    def __enter__(self) -> None:
        raise InputError(
            "this stream was opened before its process was forked; open one in the child, by "
            "predictor.stream(), and let it go on by resume(snapshot) if it shall"
        )

    def __exit__(self, *_: object) -> None:
        pass


class _InTurn:
    """Runs a graph while it holds a lock."""

    def __init__(self, run: Runner, lock: AbstractContextManager[Any]) -> None:
        self._run = run
        self._lock = lock

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        with self._lock:
            return self._run(inputs)


class _Encoder:
    """One utterance of a modality through a step from the beginning, and its summary."""

    def __init__(self, graphs: EncoderGraphs) -> None:
        entry: GraphEntry = graphs.step.entry
        self._step = graphs.step.run
        self._summary = graphs.summary.run
        self._pooled = [spec.name for spec in entry.outputs].index("pooled")
        self._start = initial_states(entry)

    def __call__(self, frames: NDArray[Any]) -> NDArray[Any]:
        """(T, D) -> (1, S)."""
        outputs = self._step({"frames": frames[None], **self._start})
        made: NDArray[Any] = self._summary({"pooled": outputs[self._pooled]})[0]
        return made


class _ComposedGraph:
    """A pattern's graph in parts: (T, D) per modality -> logits (C,), as a latency graph."""

    def __init__(self, encoders: Mapping[str, _Encoder], head: Runner) -> None:
        self._encoders = encoders
        self._head = head

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        summaries = {name: self._encoders[name](frames) for name, frames in inputs.items()}
        return [self._head(summaries)[0][0]]
