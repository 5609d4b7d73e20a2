"""What the scenarios of one run share: predictors, peers, inputs, bounds, accuracies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.benchmarks.limits import (
    Bound,
    Rates,
    axis_sizes,
    count_graph,
    input_owners,
    lower_bound,
    measure_rates,
)
from ifmmin.benchmarks.peers.base import Contender, Source
from ifmmin.benchmarks.peers.choose import find_peer
from ifmmin.benchmarks.record import OURS, TWIN, Accuracy, Row
from ifmmin.benchmarks.scenarios.plan import Plan
from ifmmin.runtime.backends import BackendOptions
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.check_golden import GoldenRun, GoldenVectors, read_golden
from ifmmin.runtime.errors import BundleError, IfmminError, ParityError
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.predictor import Predictor

Features = dict[Modality, NDArray[np.float32]]
Say = Callable[[str], None]
"""Hears what is being done."""


@dataclass(frozen=True)
class Way:
    """One of our own ways to answer."""

    backend: str
    precision: str
    threads: int


@dataclass(frozen=True)
class Entrant:
    """What takes part in a group: a call, and what its row says of it."""

    name: str
    call: Callable[[Features], Any]
    """From what `ready` made to the answer; this is timed."""
    ready: Callable[[Features, Mapping[Modality, int]], Any]
    """Inputs of the call from features and from the lengths of what is missing; not timed."""
    way: Way
    placement: Mapping[str, Any]
    note: str = ""


class Bench:
    """Everything is made at its first use, once. say: hears what is being done."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.plan = plan
        self.say = say
        self.bundle = Bundle(plan.bundle)
        self.patterns: Sequence[Pattern] = plan.patterns or self.bundle.patterns
        self.source = Source.of_bundle(self.bundle, plan.checkpoint)
        self.refused: dict[tuple[str, int], str] = {}
        """Peers and ways that cannot run here, with the reason."""
        self._predictors: dict[tuple[Way, str], Predictor | None] = {}
        self._peers: dict[tuple[str, int], tuple[Contender, str] | None] = {}
        self.measured_rates: dict[int, Rates | None] = {}
        self.accuracies: Mapping[tuple[str, str, str], Accuracy] = {}
        """By pattern, backend and precision; filled where a corpus is given."""

    @property
    def ways(self) -> Iterator[Way]:
        """Every combination that was asked for."""
        for threads in self.plan.threads:
            for backend in self.plan.backends:
                for precision in self.plan.precisions:
                    yield Way(backend, precision, threads)

    def predictor(self, way: Way, name: str = OURS) -> Predictor | None:
        """A predictor with sessions of its own; None where it cannot run, which is noted."""
        if (way, name) not in self._predictors:
            self._predictors[way, name] = self._open(way)
        return self._predictors[way, name]

    def entrants(self, pattern: Pattern, threads: int) -> list[Entrant]:
        """All that answer a pattern with so many threads: ours, the first one's twin, the peers."""
        found = self.ours(pattern, threads)
        for name in self.plan.peers:
            peer = self.peer(name, threads)
            if peer is not None:
                contender, note = peer
                found.append(
                    Entrant(
                        name, contender, contender.prepare, Way(name, "fp32", threads),
                        contender.placement, note,
                    )
                )  # fmt: skip
        return found

    def ours(self, pattern: Pattern, threads: int) -> list[Entrant]:
        """Our own ways to answer a pattern, each held against the golden vectors, and the first
        one's twin."""
        found: list[Entrant] = []
        for way in self.ways:
            if way.threads == threads:
                found += self._ours(pattern, way, OURS)
        return found + self._ours(pattern, found[0].way, TWIN) if found else []

    def features(self, lengths: Mapping[Modality, int], shift: int = 0) -> Features:
        """Raw features of some frames each: golden inputs, one after the other, from a place on."""
        made = {}
        for modality, count in lengths.items():
            frames = self._golden[modality]
            rows = (np.arange(count) + shift) % len(frames)
            made[modality] = np.ascontiguousarray(frames[rows])
        return made

    def bound(
        self, pattern: Pattern, way: Way, lengths: Mapping[Modality, int], batch: int = 1
    ) -> Bound | None:
        """The least that the graph takes on this processor; None where that is not known."""
        rates = self.rates(way.threads)
        if rates is None or way.backend not in ("onnxruntime-cpu", "openvino"):
            return None
        shape = "latency" if batch == 1 else "throughput"
        entry = self.bundle.entry(pattern, way.precision, shape, way.backend)
        sizes = axis_sizes({m.value: lengths[m] for m in pattern}, batch)
        count = count_graph(self.bundle.graph(entry), sizes, input_owners(entry))
        return lower_bound(count, rates)

    def rates(self, threads: int) -> Rates | None:
        """What this processor can do; None without the package that counts."""
        if threads not in self.measured_rates:
            self.say(f"measure the processor, {threads} threads")
            try:
                import onnx  # noqa: F401 - graphs are counted with it

                self.measured_rates[threads] = measure_rates(threads)
            except (ImportError, IfmminError) as error:
                self.refused["bound", threads] = str(error)
                self.measured_rates[threads] = None
        return self.measured_rates[threads]

    def row(self, scenario: str, entrant: Entrant, pattern: Pattern, **more: Any) -> Row:
        """A row of what an entrant did under a pattern."""
        way = entrant.way
        ours = entrant.name in (OURS, TWIN)
        told: dict[str, Any] = {"note": entrant.note, **more}
        return Row(
            scenario=scenario,  # type: ignore[arg-type]
            contender=entrant.name,
            pattern=str(pattern),
            backend=way.backend if ours else "",
            precision=way.precision if ours else "",
            threads=way.threads,
            placement=dict(entrant.placement),
            accuracy=self.accuracies.get((str(pattern), way.backend, way.precision)),
            **told,
        )

    def peer(self, name: str, threads: int) -> tuple[Contender, str] | None:
        """A peer that answers rightly, and how far it is off; None where it cannot, which is
        noted."""
        if (name, threads) not in self._peers:
            self.say(f"make the peer {name} ready, {threads} threads")
            try:
                from ifmmin.benchmarks.peers.parity import open_proven

                proven = open_proven(find_peer(name), self.source, threads, patterns=self.patterns)
                self._peers[name, threads] = (proven.contender, proven.note)
            except ImportError as error:
                self.refuse(name, threads, error)
                self._peers[name, threads] = None
            except IfmminError as error:
                self.refuse(name, threads, error)
                self._peers[name, threads] = None
        return self._peers[name, threads]

    def refuse(self, what: str, threads: int, error: Exception | str) -> None:
        """Note why something is left out."""
        reason = " ".join(str(error).split())
        self.refused[what, threads] = reason
        self.say(f"{what} is left out: {reason}")

    def _ours(self, pattern: Pattern, way: Way, name: str) -> list[Entrant]:
        predictor = self.predictor(way, name)
        if predictor is None:
            return []
        example = {m: x[:50] for m, x in self._golden.items() if m in pattern}
        try:
            answer = predictor.predict(example)
            self._require_right(predictor, pattern, way)
        except IfmminError as error:
            self.refuse(f"{way.backend} {way.precision} {pattern}", way.threads, error)
            return []
        return [Entrant(name, predictor.predict, _as_it_is, way, answer.placement)]

    def _require_right(self, predictor: Predictor, pattern: Pattern, way: Way) -> None:
        """ParityError unless the golden vectors are answered as the network did: fast and wrong
        is worth nothing."""
        entry = self.bundle.entry(pattern, way.precision, "latency", way.backend)
        golden = GoldenRun(self.bundle.manifest, self._vectors)
        check = golden.check(entry, lambda inputs: [predictor.predict(inputs).logits], whole=True)
        if check is None or not check.passed:
            raise ParityError(f"{entry.file} was not timed: {check.detail if check else ''}")

    def _open(self, way: Way) -> Predictor | None:
        try:
            return Predictor(
                self.plan.bundle,
                backend=way.backend,
                precision=way.precision,
                threads=way.threads,
                options=BackendOptions(progress=self.say),
            )
        except IfmminError as error:
            self.refuse(f"{way.backend} {way.precision}", way.threads, error)
            return None

    @cached_property
    def _vectors(self) -> GoldenVectors:
        vectors, check = read_golden(self.bundle)
        if vectors is None:
            raise BundleError(f"{check}")
        return vectors

    @cached_property
    def _golden(self) -> Features:
        inputs = self.bundle.golden_inputs()
        return {m: np.concatenate([one[m] for one in inputs]) for m in inputs[0]}


def _as_it_is(features: Features, lengths: Mapping[Modality, int]) -> Features:
    return features


def ready(
    entrant: Entrant, features: Features, lengths: Mapping[Modality, int]
) -> Callable[[], Any]:
    """A call on prepared inputs, to be timed."""
    return partial(entrant.call, entrant.ready(features, lengths))
