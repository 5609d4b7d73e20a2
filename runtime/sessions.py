"""Sessions of a bundle's graphs: chosen by measurement on this device, loaded once.

The tuner tries every candidate on the golden vectors and times those that are right in turns; its
choice is kept in a cache per device.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .backends import BACKENDS, Backend, BackendOptions, LoadedGraph, make_backend
from .backends.base import inherited
from .backends.profile import PROFILED, profile_of
from .bundle import MANIFEST_NAME, PRECISIONS, SHAPES, Bundle, GraphEntry
from .errors import (
    BackendUnavailable,
    BundleError,
    EngineError,
    IfmminError,
    InputError,
    OutputError,
)
from .files import JSON_ERRORS, read_regular
from .modality import Modality, Pattern
from .process import Lazy, device_name, installed_versions, usable_cores
from .stream.graphs import StreamGraphs, fit_to_profile

if TYPE_CHECKING:
    from .bundle.verify import Proof

_SCHEMA = 1


class _Record(msgspec.Struct, frozen=True):
    schema: int
    key: str
    choices: dict[str, Candidate]
    """By `SHAPE PATTERN`."""


class TuningCache:
    """One small file per combination of bundle, device, versions and what was asked for.

    A file that is not what it should be counts as absent: a choice is found again in a second.
    What cannot be written is not remembered, which is no error either: a robot's disk may be
    read-only.
    """

    def __init__(self, directory: Path | None, graphs: Mapping[str, object]) -> None:
        self._key = json.dumps(graphs, sort_keys=True, default=str)
        name = hashlib.sha256(self._key.encode()).hexdigest()[:32]
        from .files import cache_dir  # not for who has nothing to choose

        self._path = cache_dir(directory) / "choices" / f"{name}.json"

    def read(self, shape: str, pattern: Pattern) -> Candidate | None:
        """What was chosen for a graph, if anything was."""
        return self._read().get(f"{shape} {pattern}")

    def write(self, shape: str, pattern: Pattern, candidate: Candidate) -> None:
        """Remember a choice beside the others."""
        choices = {**self._read(), f"{shape} {pattern}": candidate}
        from .files import atomic_file

        content = msgspec.json.encode(_Record(_SCHEMA, self._key, choices))
        try:
            with atomic_file(self._path) as part:
                part.write_bytes(content)
        except OutputError:
            pass

    def _read(self) -> dict[str, Candidate]:
        try:
            record = msgspec.json.decode(read_regular(self._path, InputError), type=_Record)
        except (OSError, InputError, *JSON_ERRORS):
            return {}
        sound = record.schema == _SCHEMA and record.key == self._key
        return record.choices if sound else {}


STREAM = "stream"
"""In place of a shape: the step, summary and head graphs together."""
_WARM_UP, _ROUNDS = 5, 25
_LONGEST_SECONDS = 2.0
"""Timing a graph stops there."""
_WEIGHT = {"openvino": 1.15}
"""Times count so much more: OpenVINO's libraries, and what it keeps for lengths that it has met,
take memory that ONNX Runtime on the CPU does not."""


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
    """`taken`, `slower`, `heavier` (faster, but not by enough for the memory that it takes),
    `refused` (wrong answers), `unavailable` or `absent` (not exported)."""
    seconds: float | None = None
    """Median of a call on an ordinary golden input; None where it was not timed."""
    detail: str = ""


class Tuner:
    """Finds the fastest sound candidate for a shape and pattern, memory in mind (`_WEIGHT`).

    make: gives the backend of a candidate, or raises BackendUnavailable.
    """

    def __init__(self, bundle: Bundle, make: Callable[[Candidate], Backend]) -> None:
        self._bundle = bundle
        self._make = make
        self._graphs: dict[Candidate, StreamGraphs] = {}

    def choose(
        self, shape: str, pattern: Pattern, candidates: Sequence[Candidate]
    ) -> tuple[LoadedGraph, list[Trial]]:
        """The fastest of those that answer the golden vectors rightly, and what came of each.

        Raises BundleError if nothing fitting was exported or the bundle is damaged, and
        BackendUnavailable if nothing can run here.
        """
        tuner: list[Trial] = []
        sound: list[tuple[Candidate, LoadedGraph]] = []
        for candidate in candidates:
            if not self.exported(shape, pattern, candidate):
                detail = f"no {candidate.precision} {shape} graph of {pattern} for it"
                tuner.append(Trial(shape, pattern, candidate, "absent", detail=detail))
                continue
            try:
                loaded = self._open(shape, pattern, candidate)
            except (BackendUnavailable, EngineError) as error:
                tuner.append(Trial(shape, pattern, candidate, "unavailable", detail=str(error)))
                continue
            fault = self._fault(shape, pattern, candidate, loaded)
            if fault:
                tuner.append(Trial(shape, pattern, candidate, "refused", detail=fault))
            else:
                sound.append((candidate, loaded))
        if not sound:
            raise _nothing(self._bundle, shape, pattern, tuner)
        times = self._time([loaded for _, loaded in sound]) if len(sound) > 1 else [None]
        weight = [_WEIGHT.get(candidate.backend, 1.0) for candidate, _ in sound]
        best = min(range(len(sound)), key=lambda i: (times[i] or 0.0) * weight[i])
        for index, (candidate, loaded) in enumerate(sound):
            outcome = "taken" if index == best else "slower"
            detail = "; ".join(loaded.notes)
            if (times[index] or 0.0) < (times[best] or 0.0):
                outcome = "heavier"
                detail = (
                    f"not {weight[index] - 1:.0%} faster than {sound[best][0]}, as it has to be "
                    "for the memory that it takes"
                )
            tuner.append(Trial(shape, pattern, candidate, outcome, times[index], detail))
        return sound[best][1], tuner

    def open(self, shape: str, pattern: Pattern, candidate: Candidate) -> LoadedGraph:
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

    def graphs(self, candidate: Candidate) -> StreamGraphs:
        """The stream graphs of a candidate; the same ones whenever they are asked for."""
        if candidate not in self._graphs:
            self._graphs[candidate] = StreamGraphs(partial(self._load_part, candidate=candidate))
        return self._graphs[candidate]

    def release(self, kept: Candidate) -> None:
        """Forget the stream graphs of all other candidates, which were loaded to be tried."""
        self._graphs = {kept: self.graphs(kept)}

    def _open(self, shape: str, pattern: Pattern, candidate: Candidate) -> LoadedGraph:
        if shape == "throughput":
            return self._load_part(shape, pattern, candidate)
        if shape != STREAM:
            return self._load(shape, pattern, candidate)
        graphs = self.graphs(candidate)
        with graphs.lock:
            return graphs.in_turn(graphs.whole(pattern))

    def _load_part(
        self, shape: str, subject: Pattern | Modality, candidate: Candidate
    ) -> LoadedGraph:
        """A graph for any number of streams or utterances; without a profile nothing is cut, which
        would cost calls and spare none."""
        loaded = self._load(shape, subject, candidate)
        if candidate.backend not in PROFILED:
            return loaded
        return fit_to_profile(loaded, profile_of(loaded.entry, self._bundle.manifest.modalities))

    def _load(self, shape: str, subject: Pattern | Modality, candidate: Candidate) -> LoadedGraph:
        entry = self._bundle.entry(subject, candidate.precision, shape, candidate.backend)
        return self._make(candidate).open(self._bundle, entry)

    def exported(self, shape: str, pattern: Pattern, candidate: Candidate) -> bool:
        """Whether the bundle has a graph that the candidate takes."""
        if shape == STREAM:
            return self.exported("head", pattern, candidate)
        spec = self._bundle.manifest.backends[candidate.backend]
        found = self._bundle.find(shape, pattern, candidate.precision)
        return any(entry.recurrence in (*spec.recurrences, "none") for entry in found)

    def _fault(
        self, shape: str, pattern: Pattern, candidate: Candidate, loaded: LoadedGraph
    ) -> str:
        """Why the answers to the golden vectors are wrong; empty where they are right."""
        if shape == STREAM:
            return self._proof.fault_of_stream(self.graphs(candidate), pattern)
        return self._proof.fault(loaded)

    @Lazy
    def _proof(self) -> Proof:
        from .bundle.verify import Proof

        return Proof(self._bundle)

    def _time(self, graphs: Sequence[LoadedGraph]) -> list[float | None]:
        """Median seconds of each on an ordinary input, in turns: what runs after its like would
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
            from .validate import pad_batch

            return pad_batch(inputs)
        chosen = inputs[min(1, len(inputs) - 1)]
        if entry.shape == "head":  # of a stream, to which little comes at a time
            least = {m: self._bundle.manifest.modalities[m].minimum_length for m in chosen}
            chosen = {m: x[: least[m]] for m, x in chosen.items()}
        return {m.value: x for m, x in chosen.items()}


def _nothing(bundle: Bundle, shape: str, pattern: Pattern, tuner: Sequence[Trial]) -> IfmminError:
    """The error that helps most: why what was exported does not run, or what to export."""
    tried = [trial for trial in tuner if trial.outcome != "absent"]
    if not tried:
        precisions = sorted({trial.candidate.precision for trial in tuner})
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


AUTO = "auto"
ON_CPU = ("onnxruntime-cpu", "openvino")
"""Backends for which the number of threads is ours to choose."""
_MOST_THREADS = 4
"""More have never helped networks of this size at one utterance a time."""


@dataclass(frozen=True)
class SessionConfig:
    """What a caller asks of the way graphs are run."""

    backend: str = AUTO
    precision: str = "fp32"
    """A precision, or `auto`: any that was exported and answers rightly."""
    threads: int | str = 1
    """Threads inside a call on the CPU, or `auto`."""
    options: BackendOptions = field(default_factory=BackendOptions)

    def __post_init__(self) -> None:
        if self.backend not in (AUTO, *BACKENDS):
            known = ", ".join(BACKENDS)
            raise InputError(f"unknown backend {self.backend!r}; use auto or one of {known}")
        if self.precision not in (AUTO, *PRECISIONS):
            known = ", ".join(PRECISIONS)
            raise InputError(f"unknown precision {self.precision!r}; use auto or one of {known}")
        if self.threads != AUTO and (type(self.threads) is not int or self.threads < 1):
            raise InputError(
                f"threads: got {self.threads!r}, wanted a whole number from 1, or 'auto'"
            )


@dataclass
class Session:
    """A graph that is loaded, with the lock that keeps its calls apart."""

    loaded: LoadedGraph
    candidate: Candidate
    lock: AbstractContextManager[Any] = field(default_factory=threading.Lock)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run it; safe from any thread."""
        with self.lock:
            return self.loaded.run(inputs)


class SessionPool:
    """Graphs of one bundle by shape and pattern. May be used from many threads."""

    def __init__(self, bundle: Bundle, config: SessionConfig, *, share: bool = False) -> None:
        self._bundle = bundle
        self._config = config
        self._share = share and config.backend in (AUTO, *ON_CPU)
        self._graphs: dict[tuple[str, Pattern], Session] = {}
        self._backends: dict[tuple[str, int], Backend | BackendUnavailable] = {}
        self._tuner = Tuner(bundle, self._backend)
        self._lock = threading.RLock()
        self.history: list[Trial] = []
        """What was tried, for `--explain`."""

    def get(self, shape: str, pattern: Pattern) -> Session:
        """The graph, loaded at its first use."""
        found = self._graphs.get((shape, pattern))
        if found is not None:
            return found
        with self._lock:
            if (shape, pattern) not in self._graphs:
                self._graphs[shape, pattern] = self._ready(shape, pattern)
            return self._graphs[shape, pattern]

    def has(self, shape: str, pattern: Pattern) -> bool:
        """Whether the bundle has the graph in a form and precision that was asked for."""
        if (shape, pattern) in self._graphs:
            return True
        return self._bundle.has(shape, pattern) and any(
            self._tuner.exported(shape, pattern, candidate) for candidate in self._candidates()
        )

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns of which it has what answers whole utterances, one at a time."""
        if not self._share:
            return self._bundle.patterns
        return tuple(dict.fromkeys((*self._bundle.patterns, *self._bundle.stream_patterns)))

    def _ready(self, shape: str, pattern: Pattern) -> Session:
        if shape == "latency" and not self.patterns:
            raise _none_alone(self._bundle)
        candidates = self._candidates()
        if self._share and shape == "latency" and self._bundle.has("head", pattern):
            # One way for all patterns: the very encoders are shared.
            chosen = candidates[0] if len(candidates) == 1 else self.graphs()[1]
            graphs = self._tuner.graphs(chosen)
            return Session(graphs.whole(pattern), chosen, graphs.lock)
        if len(candidates) == 1:
            # Nothing to choose: what was asked for runs, or the caller hears why not.
            (only,) = candidates
            return Session(self._tuner.open(shape, pattern, only), only)
        known = self._cache.read(shape, pattern)
        if known in candidates:
            try:
                return Session(self._tuner.open(shape, pattern, known), known)
            except (BackendUnavailable, EngineError) as error:
                # The device is not what it was: say so, and choose anew.
                detail = f"it ran here before: {error}"
                self.history.append(Trial(shape, pattern, known, "unavailable", detail=detail))
        graph, tuner = self._chosen(shape, pattern, candidates)
        self.history += tuner
        return graph

    def graphs(self) -> tuple[StreamGraphs, Candidate]:
        """The graphs of streams and how they run: one way for all patterns, found by the fullest.

        Raises BundleError where the bundle has none.
        """
        heads = self._bundle.stream_patterns
        if not heads:
            raise BundleError(
                f"the bundle {self._bundle.directory} has no graphs for streams; export it again "
                "with ifmmin-export, which writes them unless --shape leaves them out"
            )
        fullest = max(heads, key=len)
        with self._lock:
            candidate = self.get(STREAM, fullest).candidate
            self._tuner.release(candidate)
            return self._tuner.graphs(candidate), candidate

    def explain(self, shape: str, patterns: Sequence[Pattern]) -> list[Trial]:
        """Try everything anew for some patterns; what came of each candidate."""
        tried: list[Trial] = []
        for pattern in patterns:
            graph, tuner = self._chosen(shape, pattern, self._candidates())
            with self._lock:
                self._graphs[shape, pattern] = graph
            tried += tuner
        return tried

    def _chosen(
        self, shape: str, pattern: Pattern, candidates: Sequence[Candidate]
    ) -> tuple[Session, list[Trial]]:
        """The fastest sound candidate, remembered from now on, and what came of each."""
        loaded, tuner = self._tuner.choose(shape, pattern, candidates)
        taken = next(trial.candidate for trial in tuner if trial.outcome == "taken")
        self._cache.write(shape, pattern, taken)
        return Session(loaded, taken), tuner

    def _candidates(self) -> list[Candidate]:
        """Every combination that was asked for, for backends that take it."""
        config, made = self._config, []
        names = list(BACKENDS) if config.backend == AUTO else [config.backend]
        for name in names:
            spec = self._bundle.manifest.backends.get(name)
            if spec is None:
                continue
            precisions = spec.precisions if config.precision == AUTO else [config.precision]
            for precision in precisions:
                if precision in spec.precisions:
                    made += [Candidate(name, precision, n) for n in self._threads(name)]
        if not made:
            taken = self._bundle.manifest.backends
            fits = ", ".join(n for n, s in taken.items() if config.precision in s.precisions)
            raise InputError(
                f"backend {config.backend} does not take {config.precision} graphs; "
                f"it is for {fits}"
            )
        return made

    def _threads(self, backend: str) -> list[int]:
        if backend not in ON_CPU:
            return [0]
        if isinstance(self._config.threads, int):
            return [self._config.threads]
        return list(range(1, min(usable_cores(), _MOST_THREADS) + 1))

    def _backend(self, candidate: Candidate) -> Backend:
        """The backend of a candidate, made once; that it cannot be is remembered as well."""
        key = (candidate.backend, candidate.threads)
        if key not in self._backends:
            options = replace(self._config.options, threads=max(1, candidate.threads))
            try:
                self._backends[key] = make_backend(candidate.backend, options)
            except BackendUnavailable as error:
                self._backends[key] = error
        found = self._backends[key]
        if isinstance(found, BackendUnavailable):
            raise found
        return found

    @Lazy
    def _cache(self) -> TuningCache:
        """Choices hold for this bundle on this device with these versions."""
        config = self._config
        content = (self._bundle.directory / MANIFEST_NAME).read_bytes()
        graphs = {
            "bundle": hashlib.sha256(content).hexdigest(),
            "device": device_name(),
            "cores": usable_cores(),
            "versions": installed_versions(),
            "config": [config.backend, config.precision, config.threads, config.options.spinning],
            "gpu": config.options.device,
        }
        if inherited:  # what a forked child has to do without is no choice of the device
            graphs["inherited"] = sorted(inherited)
        return TuningCache(config.options.cache, graphs)


def _none_alone(bundle: Bundle) -> BundleError:
    """The error for an utterance where the bundle has graphs, but for other things."""
    have = [s for s in SHAPES if any(entry.shape == s for entry in bundle.manifest.graphs)]
    streams = "use streams (predictor.stream(), ifmmin-run --stream), or "
    return BundleError(
        f"the bundle {bundle.directory} has no latency graphs, which answer whole utterances; it "
        f"has {', '.join(have) or 'none at all'}; {streams if 'head' in have else ''}"
        "export it with ifmmin-export ... --shape latency"
    )
