"""Context that the scenarios of one run share: predictors, peers, inputs, bounds, the pace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import IfmminError
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.predictor import Predictor

from ..peers.base import Source, find_peer
from ..record import OURS, Accuracy, Row, Scenario
from ..roofline import (
    Bound,
    Rates,
    axis_sizes,
    count_graph,
    input_owners,
    lower_bound,
    measure_rates,
)
from ..timing import Call, Name, Timing, time_together
from .contenders import Contender, Features, Ours, RunConfig
from .plan import FEWEST_ROUNDS, MONOLITH, Pace, Plan

_ON_CPU = ("onnxruntime-cpu", "openvino")
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
        self, pattern: Pattern, config: RunConfig, lengths: Mapping[Modality, int], batch: int = 1
    ) -> Bound | None:
        """The bound of one call of a pattern's graph; None where it is not known."""
        rates = self.rates(config.threads)
        if rates is None or config.backend not in _ON_CPU:
            return None
        shape = "latency" if batch == 1 else "throughput"
        entry = self._bundle.entry(pattern, config.precision, shape, config.backend)
        sizes = axis_sizes({m.value: lengths[m] for m in pattern}, batch)
        count = count_graph(self._bundle.graph(entry), sizes, input_owners(entry))
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
        self._own = Ours(plan, self.bundle, log, self.refuse)
        self._peers: dict[tuple[str, int], Contender | None] = {}
        self.accuracies: Mapping[tuple[str, str, str], Accuracy] = {}
        """By pattern, backend and precision; filled where a corpus is given."""

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
        """The contenders with a reference workload, which tells what the machine did.

        Without one where none of ours answers, where it cannot run, or where something else than
        the processor answers.
        """
        found = self.contenders(pattern, threads)
        ours = any(contender.name == OURS for contender in found)
        return found + self.reference(pattern, threads) if ours else found

    def reference(self, pattern: Pattern, threads: int) -> list[Contender]:
        """The reference workload, in a list; none where it cannot run, or where something else
        than the processor answers."""
        return self._own.reference_workload(pattern, threads)

    def ours(self, pattern: Pattern, threads: int) -> list[Contender]:
        """Our own configurations to answer a pattern, and an A/A control of the first."""
        return self._own.contenders(pattern, threads)

    def predictor(self, config: RunConfig, name: str = OURS) -> Predictor | None:
        """A predictor with sessions of its own; None where it cannot run, which is noted."""
        return self._own.predictor(config, name)

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
            frames = self._own.golden[modality]
            rows = (np.arange(count) + shift) % len(frames)
            made[modality] = np.ascontiguousarray(frames[rows])
        return made

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

    def _prove(self, name: str, threads: int) -> Contender | None:
        self.log(f"make the peer {name} ready, {threads} threads")
        peer = find_peer(name)
        try:
            from ..peers.parity import open_proven

            proven = open_proven(peer, self.source, threads, patterns=self.patterns)
        except (ImportError, IfmminError) as error:
            self.refuse(name, threads, error)
            return None
        one = proven.contender
        return Contender(
            name=name,
            call=one,
            config=RunConfig(peer.backend, "fp32", threads),
            ready=one.prepare,
            placement=one.placement,
            note=proven.note,
            peer=True,
        )
