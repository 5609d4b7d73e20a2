"""What the scenarios of one run share: predictors, peers, inputs, bounds, accuracies, the pace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ifmmin.benchmarks.peers.base import Source
from ifmmin.benchmarks.peers.choose import find_peer
from ifmmin.benchmarks.record import OURS, TWIN, YARDSTICK, Accuracy, Row
from ifmmin.benchmarks.scenarios.bounds import Bounds
from ifmmin.benchmarks.scenarios.entrant import Entrant, Features, Way
from ifmmin.benchmarks.scenarios.pace import FEWEST_ROUNDS, Pace
from ifmmin.benchmarks.scenarios.plan import MONOLITH, Plan
from ifmmin.benchmarks.timing import Call, Name, Timing, time_together
from ifmmin.benchmarks.yardstick import open_yardstick
from ifmmin.runtime.backends import BackendOptions
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.check_golden import GoldenRun, GoldenVectors, read_golden
from ifmmin.runtime.errors import BundleError, IfmminError, ParityError
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.predictor import Predictor

Say = Callable[[str], None]
"""Hears what is being done."""
SESSIONS = 3
"""Of every graph of ours, its twin and a yardstick in latencies; each round asks another one."""
READY = "making ready"
"""Phase: sessions are made, peers proven, the processor measured."""


class Bench:
    """Everything is made at its first use, once.

    say: hears what is being done. pace: of the run; without one, groups are as long as planned.
    """

    def __init__(self, plan: Plan, say: Say, pace: Pace | None = None) -> None:
        self.plan = plan
        self.say = say
        self.pace = pace or Pace(None, plan.seconds, ())
        self.bundle = Bundle(plan.bundle)
        self.bounds = Bounds(self.bundle, self.refuse)
        self.patterns: Sequence[Pattern] = plan.patterns or self.bundle.patterns
        self.source = Source.of_bundle(self.bundle, plan.checkpoint)
        self.refused: dict[tuple[str, int], str] = {}
        """Peers and ways that cannot run here, with the reason."""
        self._predictors: dict[tuple[Way, str], Predictor | None] = {}
        self._peers: dict[tuple[str, int], Entrant | None] = {}
        self._yardsticks: dict[tuple[Pattern, int], list[Entrant]] = {}
        self.accuracies: Mapping[tuple[str, str, str], Accuracy] = {}
        """By pattern, backend and precision; filled where a corpus is given."""

    @property
    def ways(self) -> Iterator[Way]:
        """Every combination that was asked for."""
        for threads in self.plan.threads:
            for backend in self.plan.backends:
                for precision in self.plan.precisions:
                    yield Way(backend, precision, threads)

    def make_ready(self, threads: int) -> None:
        """Make all that answers with so many threads, so that no later group waits for it."""
        with self.pace.phase(READY):
            self.say(f"make ready what answers on {threads} threads, and measure the processor")
            self.bounds.rates(threads)
            for pattern in self.patterns:
                self.entrants(pattern, threads)

    def time(
        self,
        calls: Mapping[Name, Call | Sequence[Call]],
        *,
        rounds: int | None = None,
        warm_up: int | None = None,
        fewest: int = FEWEST_ROUNDS,
        settled: bool = True,
    ) -> dict[Name, Timing]:
        """Time a group of calls at the run's pace.

        rounds, warm_up: at most; None: the plan's. fewest: rounds that a budget leaves to it.
        settled: as in `time_together`.
        """
        plan, limit = self.plan, self.pace.limit(fewest)
        wanted = plan.rounds if rounds is None else min(plan.rounds, rounds)
        timings = time_together(
            calls,
            repeats=wanted,
            seed=plan.seed,
            warm_up=plan.warm_up if warm_up is None else warm_up,
            seconds=limit.seconds,
            fewest=limit.fewest,
            settled=settled,
        )
        self.pace.measured(min((len(one.samples) for one in timings.values()), default=0), wanted)
        return timings

    def entrants(self, pattern: Pattern, threads: int) -> list[Entrant]:
        """All that answer a pattern with so many threads: ours, the first one's twin, the peers.

        On the first number of threads all peers; on further ones the monolith alone, since making
        the others ready takes minutes and tells little more.
        """
        found = self.ours(pattern, threads)
        for name in self.plan.peers:
            if name == MONOLITH or threads == self.plan.threads[0]:
                peer = self.peer(name, threads)
                found += [peer] if peer is not None else []
        return found

    def marked(self, pattern: Pattern, threads: int) -> list[Entrant]:
        """The entrants with a yardstick, which tells what the machine did; without one where none
        of ours answers, where it cannot run, or where something else than the processor answers."""
        found = self.entrants(pattern, threads)
        ours = any(entrant.name == OURS for entrant in found)
        return found + self._yardstick(pattern, threads) if ours else found

    def _yardstick(self, pattern: Pattern, threads: int) -> list[Entrant]:
        if not set(self.plan.backends) <= {"onnxruntime-cpu", "openvino"}:
            return []
        key = (pattern, threads)
        if key not in self._yardsticks:
            dims = {m: self.bundle.manifest.modalities[m].dim for m in pattern}
            way = Way("onnxruntime-cpu", "fp32", threads)
            try:
                call, *others = (open_yardstick(dims, pattern, threads) for _ in range(SESSIONS))
                self._yardsticks[key] = [Entrant(YARDSTICK, call, way, others=others, peer=True)]
            except ImportError as error:
                self.refuse(YARDSTICK, threads, error)
                self._yardsticks[key] = []
        return self._yardsticks[key]

    def ours(self, pattern: Pattern, threads: int) -> list[Entrant]:
        """Our own ways to answer a pattern, each held against the golden vectors, and the first
        one's twin."""
        found: list[Entrant] = []
        for way in self.ways:
            if way.threads == threads:
                found += self._ours(pattern, way, OURS)
        return found + self._ours(pattern, found[0].way, TWIN) if found else []

    def predictor(self, way: Way, name: str = OURS) -> Predictor | None:
        """A predictor with sessions of its own; None where it cannot run, which is noted."""
        if (way, name) not in self._predictors:
            self._predictors[way, name] = self._open(way)
        return self._predictors[way, name]

    def peer(self, name: str, threads: int) -> Entrant | None:
        """A peer that answers rightly; None where it cannot, which is noted."""
        if (name, threads) not in self._peers:
            with self.pace.phase(READY):
                self._peers[name, threads] = self._prove(name, threads)
        return self._peers[name, threads]

    def features(self, lengths: Mapping[Modality, int], shift: int = 0) -> Features:
        """Raw features of some frames each: golden inputs, one after the other, from a place on."""
        made = {}
        for modality, count in lengths.items():
            frames = self._golden[modality]
            rows = (np.arange(count) + shift) % len(frames)
            made[modality] = np.ascontiguousarray(frames[rows])
        return made

    def row(self, scenario: str, entrant: Entrant, pattern: Pattern, **more: Any) -> Row:
        """A row of what an entrant did under a pattern."""
        way = entrant.way
        measured = self.accuracies.get((str(pattern), way.backend, way.precision))
        told: dict[str, Any] = {"note": entrant.note, **more}
        return Row(
            scenario=scenario,  # type: ignore[arg-type]
            contender=entrant.name,
            pattern=str(pattern),
            backend=way.backend,
            precision=way.precision,
            threads=way.threads,
            placement=dict(entrant.placement),
            accuracy=None if entrant.peer else measured,
            **told,
        )

    def refuse(self, what: str, threads: int, error: Exception | str) -> None:
        """Note why something is left out."""
        reason = " ".join(str(error).split())
        self.refused[what, threads] = reason
        self.say(f"{what} is left out: {reason}")

    def _prove(self, name: str, threads: int) -> Entrant | None:
        self.say(f"make the peer {name} ready, {threads} threads")
        peer = find_peer(name)
        try:
            from ifmmin.benchmarks.peers.parity import open_proven

            proven = open_proven(peer, self.source, threads, patterns=self.patterns)
        except (ImportError, IfmminError) as error:
            self.refuse(name, threads, error)
            return None
        one = proven.contender
        return Entrant(
            name=name,
            call=one,
            way=Way(peer.backend, peer.precision, threads),
            ready=one.prepare,
            placement=one.placement,
            note=proven.note,
            peer=True,
        )

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
        return [
            Entrant(
                name,
                predictor.predict,
                way,
                placement=answer.placement,
                others=[one.predict for one in self._again(name, way, example)],
            )
        ]

    def _again(self, name: str, way: Way, example: Features) -> Iterator[Predictor]:
        """More sessions of what answered rightly."""
        for number in range(2, SESSIONS + 1):
            predictor = self.predictor(way, f"{name} {number}")
            if predictor is not None:
                predictor.predict(example)
                yield predictor

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
