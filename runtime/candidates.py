"""Ways to run a graph of a bundle here, tried on the golden vectors and timed beside each other.

What is needed for trials alone is imported by them: a predictor that knows its way starts sooner.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends import Backend, Loaded
from ifmmin.runtime.backends.profile import PROFILED, profile_of
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.cutting import within
from ifmmin.runtime.errors import BackendUnavailable, BundleError, EngineError, IfmminError
from ifmmin.runtime.manifest import GraphEntry
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.parts import Parts

if TYPE_CHECKING:
    from ifmmin.runtime.proof import Proof

STREAM = "stream"
"""In place of a shape: the step, summary and head graphs together."""
_WARM_UP, _ROUNDS = 5, 25
_LONGEST_SECONDS = 2.0
"""Timing a graph stops there."""


@dataclass(frozen=True)
class Candidate:
    """One way to run a graph."""

    backend: str
    precision: str
    threads: int
    """Threads inside a call; 0 where the backend is not on the CPU."""

    def __str__(self) -> str:
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        return f"{self.backend} {self.precision}{threads}"


@dataclass(frozen=True)
class Trial:
    """What came of a candidate for a graph."""

    shape: str
    pattern: Pattern
    candidate: Candidate
    outcome: str
    """`taken`, `slower`, `refused` (wrong answers), `unavailable` or `absent` (not exported)."""
    seconds: float | None = None
    """Median of a call on an ordinary golden input; None where it was not timed."""
    detail: str = ""


class Trials:
    """Finds the fastest sound candidate for a shape and pattern.

    make: gives the backend of a candidate, or raises BackendUnavailable.
    """

    def __init__(self, bundle: Bundle, make: Callable[[Candidate], Backend]) -> None:
        self._bundle = bundle
        self._make = make
        self._parts: dict[Candidate, Parts] = {}

    def choose(
        self, shape: str, pattern: Pattern, candidates: Sequence[Candidate]
    ) -> tuple[Loaded, list[Trial]]:
        """The fastest of those that answer the golden vectors rightly, and what came of each.

        Raises BundleError if nothing fitting was exported or the bundle is damaged, and
        BackendUnavailable if nothing can run here.
        """
        trials: list[Trial] = []
        sound: list[tuple[Candidate, Loaded]] = []
        for candidate in candidates:
            if not self.exported(shape, pattern, candidate):
                detail = f"no {candidate.precision} {shape} graph of {pattern} for it"
                trials.append(Trial(shape, pattern, candidate, "absent", detail=detail))
                continue
            try:
                loaded = self._open(shape, pattern, candidate)
            except (BackendUnavailable, EngineError) as error:
                trials.append(Trial(shape, pattern, candidate, "unavailable", detail=str(error)))
                continue
            fault = self._fault(shape, pattern, candidate, loaded)
            if fault:
                trials.append(Trial(shape, pattern, candidate, "refused", detail=fault))
            else:
                sound.append((candidate, loaded))
        if not sound:
            raise _nothing(self._bundle, shape, pattern, trials)
        times = self._time([loaded for _, loaded in sound]) if len(sound) > 1 else [None]
        best = min(range(len(sound)), key=lambda i: times[i] or 0.0)
        for index, (candidate, loaded) in enumerate(sound):
            outcome = "taken" if index == best else "slower"
            detail = "; ".join(loaded.notes)
            trials.append(Trial(shape, pattern, candidate, outcome, times[index], detail))
        return sound[best][1], trials

    def open(self, shape: str, pattern: Pattern, candidate: Candidate) -> Loaded:
        """A candidate's graph, or the graphs of its stream, ready to run on whole utterances.

        Those of a stream are held against the golden vectors, since one way serves all patterns and
        wrong states show only after some calls; they take turns with whatever shares them. Raises
        BackendUnavailable where they answer wrongly.
        """
        loaded = self._open(shape, pattern, candidate)
        fault = self._fault(shape, pattern, candidate, loaded) if shape == STREAM else ""
        if fault:
            raise BackendUnavailable(
                f"{candidate} does not answer the golden vectors of {pattern} as the network did "
                f"({fault}); take another backend, or look at the "
                "bundle with ifmmin-bundle verify"
            )
        return loaded

    def parts(self, candidate: Candidate) -> Parts:
        """The stream graphs of a candidate; the same ones whenever they are asked for."""
        if candidate not in self._parts:
            self._parts[candidate] = Parts(partial(self._load_part, candidate=candidate))
        return self._parts[candidate]

    def release(self, kept: Candidate) -> None:
        """Forget the stream graphs of all other candidates, which were loaded to be tried."""
        self._parts = {kept: self.parts(kept)}

    def _open(self, shape: str, pattern: Pattern, candidate: Candidate) -> Loaded:
        if shape != STREAM:
            return self._load(shape, pattern, candidate)
        parts = self.parts(candidate)
        with parts.lock:
            return parts.in_turn(parts.whole(pattern))

    def _load_part(self, shape: str, subject: Pattern | Modality, candidate: Candidate) -> Loaded:
        """A graph of streams, for any number of them. Where there is no profile nothing is cut: it
        would cost calls and spare none."""
        loaded = self._load(shape, subject, candidate)
        if candidate.backend not in PROFILED:
            return loaded
        return within(loaded, profile_of(loaded.entry, self._bundle.manifest.modalities))

    def _load(self, shape: str, subject: Pattern | Modality, candidate: Candidate) -> Loaded:
        entry = self._bundle.entry(subject, candidate.precision, shape, candidate.backend)
        return self._make(candidate).open(self._bundle, entry)

    def exported(self, shape: str, pattern: Pattern, candidate: Candidate) -> bool:
        """Whether the bundle has a graph that the candidate takes."""
        if shape == STREAM:
            return self.exported("head", pattern, candidate)
        spec = self._bundle.manifest.backends[candidate.backend]
        found = self._bundle.find(shape, pattern, candidate.precision)
        return any(entry.recurrence in (*spec.recurrences, "none") for entry in found)

    def _fault(self, shape: str, pattern: Pattern, candidate: Candidate, loaded: Loaded) -> str:
        """Why the answers to the golden vectors are wrong; empty where they are right."""
        if shape == STREAM:
            return self._proof.fault_of_stream(self.parts(candidate), pattern)
        return self._proof.fault(loaded)

    @cached_property
    def _proof(self) -> Proof:
        from ifmmin.runtime.proof import Proof

        return Proof(self._bundle)

    def _time(self, graphs: Sequence[Loaded]) -> list[float | None]:
        """Median seconds of each on an ordinary input, in turns: what runs after its twin would
        find warm caches."""
        calls = [(loaded, self._inputs(loaded.entry)) for loaded in graphs]
        samples: list[list[float]] = [[] for _ in graphs]
        ends = time.perf_counter() + _LONGEST_SECONDS * len(graphs)
        for turn in range(_WARM_UP + _ROUNDS):
            for index, (loaded, inputs) in enumerate(calls):
                started = time.perf_counter()
                loaded.run(inputs)
                if turn >= _WARM_UP or started > ends:
                    samples[index].append(time.perf_counter() - started)
            if time.perf_counter() > ends:
                break
        return [float(np.median(found)) for found in samples]

    def _inputs(self, entry: GraphEntry) -> Mapping[str, NDArray[Any]]:
        assert entry.pattern is not None
        inputs = self._proof.vectors.of(entry.pattern)
        if entry.shape == "throughput":
            from ifmmin.runtime.batch import pad_batch

            return pad_batch(inputs)
        chosen = inputs[min(1, len(inputs) - 1)]
        if entry.shape == "head":  # of a stream, to which little comes at a time
            least = {m: self._bundle.manifest.modalities[m].minimum_length for m in chosen}
            chosen = {m: x[: least[m]] for m, x in chosen.items()}
        return {m.value: x for m, x in chosen.items()}


def _nothing(bundle: Bundle, shape: str, pattern: Pattern, trials: Sequence[Trial]) -> IfmminError:
    """The error that helps most: why what was exported does not run, or what to export."""
    tried = [trial for trial in trials if trial.outcome != "absent"]
    if not tried:
        precisions = sorted({trial.candidate.precision for trial in trials})
        have = ", ".join(" ".join(e.key) for e in bundle.manifest.graphs if e.shape == shape)
        return BundleError(
            f"the bundle {bundle.directory} has no {' or '.join(precisions)} {shape} graph of "
            f"pattern {pattern}; it has {have or 'none'}; export it with ifmmin-export CHECKPOINT "
            f"--pattern {pattern}"
        )
    if len(tried) == 1:
        return BackendUnavailable(tried[0].detail)
    reasons = "; ".join(f"{trial.candidate}: {trial.detail}" for trial in tried)
    return BackendUnavailable(
        f"no backend can run the {shape} graph of {pattern} in {bundle.directory}: {reasons}"
    )
