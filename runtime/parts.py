"""The graphs of streams: steps and summaries of modalities, heads of patterns, each loaded once.

A latency graph is one call and holds its own copy of all weights. From these parts the same answer
takes a few microseconds more; but seven patterns hold hardly more memory than one, and what a
modality has said so far has to be computed only once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from ifmmin.runtime.backends import Loaded, Runner
from ifmmin.runtime.cutting import Rows
from ifmmin.runtime.manifest import GraphEntry
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.step import initial_states

Open = Callable[[str, Pattern | Modality], Loaded]
"""Loads a graph of a shape for a pattern or modality."""


@dataclass(frozen=True)
class EncoderParts:
    """The two graphs of a modality."""

    step: Loaded
    summary: Loaded


class Parts:
    """The stream graphs of a bundle by one backend, each loaded at its first use.

    lock: to be held while any of them is loaded or runs; what shares them takes turns. Nothing here
    takes it but `in_turn`: a stream holds it for several calls at once.
    """

    def __init__(self, open_graph: Open) -> None:
        self._open = open_graph
        self._encoders: dict[Modality, EncoderParts] = {}
        self._heads: dict[Pattern, Loaded] = {}
        self.lock = threading.Lock()

    def encoder(self, modality: Modality) -> EncoderParts:
        """Step and summary of a modality."""
        if modality not in self._encoders:
            step, summary = (_apart(self._open(shape, modality)) for shape in ("step", "summary"))
            self._encoders[modality] = EncoderParts(step, summary)
        return self._encoders[modality]

    def head(self, pattern: Pattern) -> Loaded:
        """The head of a pattern."""
        if pattern not in self._heads:
            self._heads[pattern] = _apart(self._open("head", pattern))
        return self._heads[pattern]

    def whole(self, pattern: Pattern) -> Loaded:
        """What answers whole utterances of a pattern, as its latency graph does."""
        head = self.head(pattern)
        encoders = {m.value: _Encoder(self.encoder(m)) for m in pattern}
        return Loaded(_Composed(encoders, head.run), head.entry, head.placement, head.notes)

    def in_turn(self, loaded: Loaded) -> Loaded:
        """One of these graphs, or a whole, that waits at every call until no other one runs."""
        return replace(loaded, run=_InTurn(loaded.run, self.lock))


def _apart(loaded: Loaded) -> Loaded:
    """The graph, one stream at a time where it finds the scale of its 8 bits in what it is given:
    the scale of a batch would let every stream change the answers of the others."""
    entry = loaded.entry
    if entry.precision == "int8" and entry.quantised:
        return replace(loaded, run=Rows(loaded.run, 1))
    return loaded


class _InTurn:
    """Runs a graph while it holds a lock."""

    def __init__(self, run: Runner, lock: threading.Lock) -> None:
        self._run = run
        self._lock = lock

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        with self._lock:
            return self._run(inputs)


class _Encoder:
    """One utterance of a modality through a step from the beginning, and its summary."""

    def __init__(self, parts: EncoderParts) -> None:
        entry: GraphEntry = parts.step.entry
        self._step = parts.step.run
        self._summary = parts.summary.run
        self._pooled = [spec.name for spec in entry.outputs].index("pooled")
        self._start = initial_states(entry)

    def __call__(self, frames: NDArray[Any]) -> NDArray[Any]:
        """(T, D) -> (1, S)."""
        outputs = self._step({"frames": frames[None], **self._start})
        made: NDArray[Any] = self._summary({"pooled": outputs[self._pooled]})[0]
        return made


class _Composed:
    """A pattern's graph in parts: (T, D) per modality -> logits (C,), as a latency graph."""

    def __init__(self, encoders: Mapping[str, _Encoder], head: Runner) -> None:
        self._encoders = encoders
        self._head = head

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        summaries = {name: self._encoders[name](frames) for name, frames in inputs.items()}
        return [self._head(summaries)[0][0]]
