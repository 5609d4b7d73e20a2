"""The graphs of a bundle as they are needed: chosen once, loaded once, one call at a time."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from ifmmin.runtime.backends import BACKENDS, Backend, BackendOptions, Loaded, make_backend
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.candidates import STREAM, Candidate, Trial, Trials
from ifmmin.runtime.choice_cache import ChoiceCache
from ifmmin.runtime.device import device_name, usable_cores
from ifmmin.runtime.errors import BackendUnavailable, BundleError, EngineError, InputError
from ifmmin.runtime.manifest import MANIFEST_NAME, PRECISIONS, SHAPES
from ifmmin.runtime.modality import Pattern
from ifmmin.runtime.parts import Parts
from ifmmin.runtime.version import installed_versions

AUTO = "auto"
ON_CPU = ("onnxruntime-cpu", "openvino")
"""Backends for which the number of threads is ours to choose."""
_MOST_THREADS = 4
"""More have never helped networks of this size at one utterance a time."""


@dataclass(frozen=True)
class Wish:
    """What a caller asks of the way graphs are run."""

    backend: str = AUTO
    precision: str = "fp32"
    """A precision, or `auto`: any that was exported and answers rightly."""
    threads: int | str = 1
    """Threads inside a call on the CPU, or `auto`."""
    options: BackendOptions = field(default_factory=BackendOptions)

    def __post_init__(self) -> None:
        if self.backend != AUTO and self.backend not in BACKENDS:
            known = ", ".join(BACKENDS)
            raise InputError(f"unknown backend {self.backend!r}; use auto or one of {known}")
        if self.precision not in (AUTO, *PRECISIONS):
            known = ", ".join(PRECISIONS)
            raise InputError(f"unknown precision {self.precision!r}; use auto or one of {known}")
        if self.threads != AUTO and (not isinstance(self.threads, int) or self.threads < 1):
            raise InputError(f"threads must be at least 1, or auto, got {self.threads}")


@dataclass
class ReadyGraph:
    """A graph that is loaded, with the lock that keeps its calls apart."""

    loaded: Loaded
    candidate: Candidate
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run it; safe from any thread."""
        with self.lock:
            return self.loaded.run(inputs)


class Shelf:
    """Graphs of one bundle by shape and pattern. May be used from many threads."""

    def __init__(self, bundle: Bundle, wish: Wish, *, share: bool = False) -> None:
        self._bundle = bundle
        self._wish = wish
        self._share = share and wish.backend in (AUTO, *ON_CPU)
        self._graphs: dict[tuple[str, Pattern], ReadyGraph] = {}
        self._backends: dict[tuple[str, int], Backend | BackendUnavailable] = {}
        self._trials = Trials(bundle, self._backend)
        self._lock = threading.RLock()
        self.history: list[Trial] = []
        """What was tried, for `--explain`."""

    def get(self, shape: str, pattern: Pattern) -> ReadyGraph:
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
            self._trials.exported(shape, pattern, candidate) for candidate in self._candidates()
        )

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns of which it has what answers whole utterances, one at a time."""
        if not self._share:
            return self._bundle.patterns
        return tuple(dict.fromkeys((*self._bundle.patterns, *self._bundle.stream_patterns)))

    def _ready(self, shape: str, pattern: Pattern) -> ReadyGraph:
        if shape == "latency" and not self.patterns:
            raise _none_alone(self._bundle)
        candidates = self._candidates()
        if self._share and shape == "latency" and self._bundle.has("head", pattern):
            first = next(c for c in candidates if c.backend in ON_CPU)
            parts = self._trials.parts(first)
            return ReadyGraph(parts.whole(pattern), first, parts.lock)
        if len(candidates) == 1:
            # Nothing to choose: what was asked for runs, or the caller hears why not.
            (only,) = candidates
            return ReadyGraph(self._trials.open(shape, pattern, only), only)
        known = self._cache.read(shape, pattern)
        if known in candidates:
            try:
                return ReadyGraph(self._trials.open(shape, pattern, known), known)
            except (BackendUnavailable, EngineError) as error:
                # The device is not what it was: say so, and choose anew.
                detail = f"it ran here before: {error}"
                self.history.append(Trial(shape, pattern, known, "unavailable", detail=detail))
        graph, trials = self._chosen(shape, pattern, candidates)
        self.history += trials
        return graph

    def parts(self) -> tuple[Parts, Candidate]:
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
            self._trials.release(candidate)
            return self._trials.parts(candidate), candidate

    def explain(self, shape: str, patterns: Sequence[Pattern]) -> list[Trial]:
        """Try everything anew for some patterns; what came of each candidate."""
        tried: list[Trial] = []
        for pattern in patterns:
            graph, trials = self._chosen(shape, pattern, self._candidates())
            with self._lock:
                self._graphs[shape, pattern] = graph
            tried += trials
        return tried

    def _chosen(
        self, shape: str, pattern: Pattern, candidates: Sequence[Candidate]
    ) -> tuple[ReadyGraph, list[Trial]]:
        """The fastest sound candidate, remembered from now on, and what came of each."""
        loaded, trials = self._trials.choose(shape, pattern, candidates)
        taken = next(trial.candidate for trial in trials if trial.outcome == "taken")
        self._cache.write(shape, pattern, taken)
        return ReadyGraph(loaded, taken), trials

    def _candidates(self) -> list[Candidate]:
        """Every combination that was asked for, for backends that take it."""
        wish, made = self._wish, []
        names = list(BACKENDS) if wish.backend == AUTO else [wish.backend]
        for name in names:
            spec = self._bundle.manifest.backends.get(name)
            if spec is None:
                continue
            precisions = spec.precisions if wish.precision == AUTO else [wish.precision]
            for precision in precisions:
                if precision in spec.precisions:
                    made += [Candidate(name, precision, n) for n in self._threads(name)]
        if not made:
            taken = self._bundle.manifest.backends
            fits = ", ".join(n for n, s in taken.items() if wish.precision in s.precisions)
            raise InputError(
                f"backend {wish.backend} does not take {wish.precision} graphs; it is for {fits}"
            )
        return made

    def _threads(self, backend: str) -> list[int]:
        if backend not in ON_CPU:
            return [0]
        if isinstance(self._wish.threads, int):
            return [self._wish.threads]
        return list(range(1, min(usable_cores(), _MOST_THREADS) + 1))

    def _backend(self, candidate: Candidate) -> Backend:
        """The backend of a candidate, made once; that it cannot be is remembered as well."""
        key = (candidate.backend, candidate.threads)
        if key not in self._backends:
            options = replace(self._wish.options, threads=max(1, candidate.threads))
            try:
                self._backends[key] = make_backend(candidate.backend, options)
            except BackendUnavailable as error:
                self._backends[key] = error
        found = self._backends[key]
        if isinstance(found, BackendUnavailable):
            raise found
        return found

    @cached_property
    def _cache(self) -> ChoiceCache:
        """Choices hold for this bundle on this device with these versions."""
        wish = self._wish
        content = (self._bundle.directory / MANIFEST_NAME).read_bytes()
        parts = {
            "bundle": hashlib.sha256(content).hexdigest(),
            "device": device_name(),
            "versions": installed_versions(),
            "wish": [wish.backend, wish.precision, wish.threads, wish.options.spinning],
            "gpu": wish.options.device,
        }
        return ChoiceCache(wish.options.cache, parts)


def _none_alone(bundle: Bundle) -> BundleError:
    """The error for an utterance where the bundle has graphs, but for other things."""
    have = [s for s in SHAPES if any(entry.shape == s for entry in bundle.manifest.graphs)]
    streams = "use streams (predictor.stream(), ifmmin-run --stream), or "
    return BundleError(
        f"the bundle {bundle.directory} has no latency graphs, which answer whole utterances; it "
        f"has {', '.join(have) or 'none at all'}; {streams if 'head' in have else ''}"
        "export it with ifmmin-export ... --shape latency"
    )
