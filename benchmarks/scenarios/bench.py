"""Context that the scenarios of one run share: predictors, peers, inputs, bounds, the pace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ifmmin.runtime.backends import BackendOptions
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.bundle.verify import GoldenVectors, GoldenVerifier, read_golden
from ifmmin.runtime.errors import BundleError, IfmminError, ParityError
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.predictor import Predictor

from ..peers.base import Source, find_peer
from ..record import CONTROL, OURS, REFERENCE, Accuracy, Row, Scenario
from ..roofline.bound import Bound, lower_bound
from ..roofline.count import axis_sizes, count_graph, input_owners
from ..roofline.probe import Rates, measure_rates
from ..timing import Array, Call, Name, time_together
from .contenders import SESSIONS, Contender, Features, RunConfig, open_reference, run_configs
from .plan import FEWEST_ROUNDS, MONOLITH, ORDINARY, Pace, Plan

_ON_CPU = frozenset({"onnxruntime-cpu", "openvino"})
Log = Callable[[str], None]
"""Hears what is being done."""
READY = "making ready"
"""Phase: sessions are made, peers proven, the processor measured."""


class Bounds:
    """Bounds of a bundle's graphs. refuse: hears why there are none, with the threads."""

    def __init__(self, bundle: Bundle, refuse: Callable[[str, int, Exception], None]) -> None:
        self._bundle = bundle
        self._refuse = refuse
        self._rates: dict[int, Rates | None] = {}

    @property
    def measured(self) -> tuple[Rates, ...]:
        """What the processor does, by number of threads, as far as it was asked."""
        return tuple(rates for rates in self._rates.values() if rates is not None)

    def rates(self, threads: int) -> Rates | None:
        """What this processor can do; None without the package that counts, which is noted."""
        if threads not in self._rates:
            try:
                import onnx  # noqa: F401 - graphs are counted with it

                self._rates[threads] = measure_rates(threads)
            except (ImportError, IfmminError) as error:
                self._refuse("bound", threads, error)
                self._rates[threads] = None
        return self._rates[threads]

    def of(
        self,
        contender: Contender,
        pattern: Pattern,
        lengths: Mapping[Modality, int],
        batch: int = 1,
    ) -> Bound | None:
        """The bound of one call of ours; None of others, and where it is not known."""
        config = contender.config
        if contender.name != OURS or config.backend not in _ON_CPU:
            return None
        rates = self.rates(config.threads)
        if rates is None:
            return None
        shape = "latency" if batch == 1 else "throughput"
        sizes = axis_sizes({m.value: lengths[m] for m in pattern}, batch)
        try:
            entry = self._bundle.entry(pattern, config.precision, shape, config.backend)
            count = count_graph(self._bundle.graph(entry), sizes, input_owners(entry))
        except IfmminError:
            return None
        return lower_bound(count, rates)


class Bench:
    """Everything is made at its first use, once.

    log: hears what is being done. pace: of the run; without one, groups are as long as planned.
    """

    def __init__(self, plan: Plan, log: Log, pace: Pace | None = None) -> None:
        self.plan = plan
        self.log = log
        self.pace = pace or Pace(None, plan.seconds, ())
        self.bundle = Bundle(plan.bundle)
        self.bounds = Bounds(self.bundle, self.refuse)
        self.patterns: Sequence[Pattern] = plan.patterns or self.bundle.patterns
        self.source = Source.of_bundle(self.bundle, plan.checkpoint)
        self.scenario: Scenario = "latency"
        """The one that goes on; accuracies are columns of latency."""
        self.refused: dict[tuple[Scenario, str, int], str] = {}
        """What cannot run here, by scenario, name and threads, with the reason."""
        self.accuracies: Mapping[tuple[str, str, str], Accuracy] = {}
        """By pattern, backend and precision; filled where a corpus is given."""
        self._predictors: dict[tuple[RunConfig, str], Predictor | None] = {}
        self._references: dict[tuple[Pattern, int], list[Contender]] = {}
        self._peers: dict[tuple[str, int], Contender | None] = {}

    def make_ready(self, threads: int) -> None:
        """Make all that answers with so many threads, so that no later group waits for it."""
        with self.pace.phase(READY):
            self.log(f"make ready what answers on {threads} threads, and measure the processor")
            self.bounds.rates(threads)
            for pattern in self.patterns:
                self.contenders(pattern, threads)

    def time(
        self,
        calls: Mapping[Name, Call | Sequence[Call]],
        *,
        rounds: int | None = None,
        warm_up: int | None = None,
        fewest: int = FEWEST_ROUNDS,
        settled: bool = True,
    ) -> dict[Name, Array]:
        """Seconds (R,) of each of a group of calls, timed at the run's pace.

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
        self.pace.measured(min(map(len, timings.values()), default=0), wanted)
        return timings

    def contenders(self, pattern: Pattern, threads: int) -> list[Contender]:
        """All that answer a pattern with so many threads: ours, an A/A control, the peers.

        On the first number of threads all peers; on further ones the monolith alone, since making
        the others ready takes minutes and tells little more.
        """
        found = self.ours(pattern, threads)
        for name in self.plan.peers:
            if name == MONOLITH or threads == self.plan.threads[0]:
                peer = self.peer(name, threads)
                found += [peer] if peer is not None else []
        return found

    def marked(self, pattern: Pattern, threads: int) -> list[Contender]:
        """The contenders with a reference workload, if any of ours answers."""
        found = self.contenders(pattern, threads)
        ours = any(contender.name == OURS for contender in found)
        return found + self.reference(pattern, threads) if ours else found

    def reference(self, pattern: Pattern, threads: int) -> list[Contender]:
        """The reference workload, which tells what the machine did, in a list; none where it
        cannot run, or where something else than the processor answers."""
        if not _ON_CPU.issuperset(self.plan.backends):
            return []
        key = (pattern, threads)
        if key not in self._references:
            dims = {m: self.bundle.manifest.modalities[m].dim for m in pattern}
            config = RunConfig("onnxruntime-cpu", "fp32", threads)
            try:
                call, *others = (open_reference(dims, pattern, threads) for _ in range(SESSIONS))
                contender = Contender(REFERENCE, call, config, others=others, peer=True)
                self._references[key] = [contender]
            except ImportError as error:
                self.refuse(REFERENCE, threads, error)
                self._references[key] = []
        return self._references[key]

    def ours(self, pattern: Pattern, threads: int) -> list[Contender]:
        """Our configurations that answer a pattern, each held against the golden vectors, and the
        A/A control of the first."""
        found: list[Contender] = []
        for config in run_configs(self.plan):
            if config.threads == threads:
                found += self._own(pattern, config, OURS)
        return found + self._own(pattern, found[0].config, CONTROL) if found else []

    def predictor(self, config: RunConfig, name: str = OURS) -> Predictor | None:
        """A predictor with sessions of its own; None where it cannot run, which is noted."""
        if (config, name) not in self._predictors:
            try:
                self._predictors[config, name] = Predictor(
                    self.plan.bundle,
                    backend=config.backend,
                    precision=config.precision,
                    threads=config.threads,
                    options=BackendOptions(progress=self.log),
                )
            except IfmminError as error:
                self.refuse(f"{config.backend} {config.precision}", config.threads, error)
                self._predictors[config, name] = None
        return self._predictors[config, name]

    def peer(self, name: str, threads: int) -> Contender | None:
        """A peer that answers rightly; None where it cannot, which is noted."""
        if (name, threads) not in self._peers:
            with self.pace.phase(READY):
                self._peers[name, threads] = self._prove(name, threads)
        return self._peers[name, threads]

    def features(self, lengths: Mapping[Modality, int], shift: int = 0) -> Features:
        """Raw features of some frames each: golden inputs, one after the other, from a place on."""
        made = {}
        for modality, count in lengths.items():
            frames = self._golden_frames[modality]
            rows = (np.arange(count) + shift) % len(frames)
            made[modality] = np.ascontiguousarray(frames[rows])
        return made

    def ordinary(self, pattern: Pattern, shift: int = 0) -> Features:
        """Raw features of an ordinary utterance."""
        return self.features({m: ORDINARY[m] for m in pattern}, shift)

    def row(self, scenario: str, contender: Contender, pattern: Pattern, **more: Any) -> Row:
        """A row of what a contender did under a pattern."""
        config = contender.config
        measured = self.accuracies.get((str(pattern), config.backend, config.precision))
        told: dict[str, Any] = {"note": contender.note, **more}
        return Row(
            scenario=scenario,  # type: ignore[arg-type]
            contender=contender.name,
            pattern=str(pattern),
            backend=config.backend,
            precision=config.precision,
            threads=config.threads,
            placement=dict(contender.placement),
            accuracy=None if contender.peer else measured,
            **told,
        )

    def refuse(self, what: str, threads: int, error: Exception | str) -> None:
        """Note why something is left out, of the scenario that goes on."""
        reason = " ".join(str(error).split())
        self.refused[self.scenario, what, threads] = reason
        self.log(f"{what} is left out: {reason}")

    def _own(self, pattern: Pattern, config: RunConfig, name: str) -> list[Contender]:
        """A configuration of ours that answers rightly, in a list; fast and wrong is no entry."""
        predictor = self.predictor(config, name)
        if predictor is None:
            return []
        example = {m: x[:50] for m, x in self._golden_frames.items() if m in pattern}
        try:
            answer = predictor.predict(example)
            self._require_right(predictor, pattern, config)
        except IfmminError as error:
            self.refuse(f"{config.backend} {config.precision} {pattern}", config.threads, error)
            return []
        call, placement = predictor.predict, answer.placement
        further = [self.predictor(config, f"{name} {n}") for n in range(2, SESSIONS + 1)]
        others = [one.predict for one in further if one is not None]
        for other in others:
            other(example)
        return [Contender(name, call, config, placement=placement, others=others)]

    def _require_right(self, predictor: Predictor, pattern: Pattern, config: RunConfig) -> None:
        """ParityError unless the golden vectors are answered as the network did."""
        entry = self.bundle.entry(pattern, config.precision, "latency", config.backend)
        golden = GoldenVerifier(self.bundle.manifest, self._golden_vectors)
        check = golden.check(entry, lambda inputs: [predictor.predict(inputs).logits], whole=True)
        if check is None or not check.passed:
            raise ParityError(f"{entry.file} was not timed: {check.detail if check else ''}")

    @cached_property
    def _golden_vectors(self) -> GoldenVectors:
        vectors, check = read_golden(self.bundle)
        if vectors is None:
            raise BundleError(f"{check}")
        return vectors

    @cached_property
    def _golden_frames(self) -> Features:
        """Frames of all golden inputs, one after the other."""
        inputs = self.bundle.golden_inputs()
        return {m: np.concatenate([one[m] for one in inputs]) for m in inputs[0]}

    def _prove(self, name: str, threads: int) -> Contender | None:
        self.log(f"make the peer {name} ready, {threads} threads")
        peer = find_peer(name)
        try:
            from ..peers.parity import open_proven

            proven = open_proven(peer, self.source, threads, patterns=self.patterns)
        except (ImportError, IfmminError) as error:
            self.refuse(name, threads, error)
            return None
        one, config = proven.contender, RunConfig(peer.backend, "fp32", threads)
        return Contender(
            name, one, config, one.prepare, placement=one.placement, note=proven.note, peer=True
        )
