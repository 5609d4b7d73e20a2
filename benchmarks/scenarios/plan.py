"""Plan of a run: what to measure, how often, and how long it may take.

Its time is shared out over groups of calls. A group is what takes turns in the same rounds. Each
gets an equal part of its scenario's share of what is left of the budget, so that a phase that took
longer than usual is paid for by all that follow. Rounds are cut, never below a floor; contenders
and conditions never are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from ifmmin.runtime.modality import Modality, Pattern

from ..record import Phase
from ..timing import WARM_UP

_ALONE = Pattern.of([Modality.A])


def alone_and_fullest(patterns: Sequence[Pattern]) -> list[Pattern]:
    """The acoustic one, in its absence the smallest, and the one with the most modalities."""

    def size(pattern: Pattern) -> int:
        return len(pattern.present)

    smallest = _ALONE if _ALONE in patterns else min(patterns, key=size)
    return list(dict.fromkeys((smallest, max(patterns, key=size))))


ORDINARY: Mapping[Modality, int] = {Modality.A: 50, Modality.V: 50, Modality.T: 22}
"""Frames of an ordinary IEMOCAP utterance; T_a = 50 is the length of the published goals."""


def ordinary_lengths(pattern: Pattern) -> dict[str, int]:
    """Frames of an ordinary utterance by letter, for the record."""
    return {m.value: ORDINARY[m] for m in pattern}


ACOUSTIC_LENGTHS = (10, 50, 100, 400)
BATCHES = (1, 8, 32, 128)
MONOLITH = "monolith"
"""The peer that others are told against: the network, exported once, in ONNX Runtime."""
FEWEST_ROUNDS = 20
"""That a budget leaves to a group."""
SHARES = {
    "latency": 120.0, "length": 80.0, "throughput": 50.0, "stream": 50.0, "streams": 25.0,
    "signal": 25.0, "cold-start": 40.0,
}  # fmt: skip
"""Weights of the scenarios whose groups can be cut."""
FIXED = {"idle": 50.0, "memory": 30.0, "load": 50.0}
"""Seconds kept for the scenarios whose own pauses and rules say how long they take."""


@dataclass(frozen=True)
class Plan:
    """A run. Everything that changes a figure is here and goes into the record."""

    bundle: Path
    checkpoint: Path | None = None
    """The one that the bundle was made from; without it no peers run."""
    scenarios: tuple[str, ...] = ()
    """Empty: all."""
    patterns: tuple[Pattern, ...] = ()
    """Empty: those of the bundle."""
    backends: tuple[str, ...] = ("onnxruntime-cpu",)
    precisions: tuple[str, ...] = ("fp32",)
    batches: tuple[int, ...] = BATCHES
    """Utterances of a call of `throughput`."""
    threads: tuple[int, ...] = (1,)
    """The first has every scenario and all peers, further ones latency beside the monolith."""
    peers: tuple[str, ...] = (MONOLITH,)
    rounds: int = 200
    """Of every group of calls that take turns."""
    warm_up: int = WARM_UP
    """Calls of each before the first round."""
    seconds: float = 20.0
    """A group stops there, with the rounds that it has."""
    budget: float | None = None
    """Seconds that all of the run may take; groups get fewer rounds for it. None: no end."""
    seed: int = 0
    fold: int | None = None
    """Whose test part the accuracy is of; None: it is not measured."""
    features: Path | None = None
    """Corpus of the accuracy, with `targets`; None: the recipe's needs no files."""
    targets: Path | None = None
    full_rules: bool = False
    """MLPerf's durations for scenarios of the load generator."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """More to write down."""


class Limit(NamedTuple):
    """Of a group."""

    seconds: float
    """No round begins after so many, but the first `fewest`."""
    fewest: int


class Pace:
    """Shares out seconds from the moment it is made.

    budget: seconds of all scenarios together; None: no end. longest: seconds of any one group.
    scenarios: what will run, in this order.
    """

    def __init__(self, budget: float | None, longest: float, scenarios: Sequence[str]) -> None:
        self._ends = math.inf if budget is None else time.monotonic() + budget
        self._longest = longest
        self._coming = list(scenarios)
        self._phases: dict[str, Phase] = {}
        self._running: list[str] = []
        self._groups_left = self._groups = 1

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Those that ended, in the order in which they first began."""
        return tuple(self._phases.values())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a part of the run; one within another is told apart from it."""
        if name in self._coming:
            del self._coming[: self._coming.index(name) + 1]
            self.expect(1)
        self._phases.setdefault(name, Phase(name=name, seconds=0.0))
        self._running.append(name)
        started = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - started
            self._running.pop()
            self._change(name, seconds=self._phases[name].seconds + took)
            if self._running:
                outer = self._running[-1]
                self._change(outer, seconds=self._phases[outer].seconds - took)

    def expect(self, groups: int) -> None:
        """Say how many groups the scenario that runs will measure."""
        self._groups = self._groups_left = max(1, groups)

    def limit(self, fewest: int = FEWEST_ROUNDS) -> Limit:
        """Of the next group. fewest: rounds that a budget leaves to it."""
        if math.isinf(self._ends):
            return Limit(self._longest, 1)
        later = sum(SHARES.get(name, 0.0) for name in self._coming)
        kept = sum(FIXED.get(name, 0.0) for name in self._coming)
        own = SHARES.get(self._scenario, 1.0) * self._groups_left / self._groups
        left = max(0.0, self._ends - time.monotonic() - kept)
        seconds = left * own / (own + later) / self._groups_left
        return Limit(min(self._longest, seconds), fewest)

    def measured(self, rounds: int, wanted: int) -> None:
        """Note that a group was measured."""
        self._groups_left = max(1, self._groups_left - 1)
        if self._running:
            known = self._phases[self._scenario]
            ends = (*(known.rounds or ()), rounds)
            self._change(
                known.name,
                groups=known.groups + 1,
                rounds=(min(ends), max(ends)),
                cut=known.cut + (rounds < wanted),
            )

    def _change(self, name: str, **values: Any) -> None:
        self._phases[name] = replace(self._phases[name], **values)

    @property
    def _scenario(self) -> str:
        return self._running[0] if self._running else ""
