"""Our own ways to answer, each held against the golden vectors, in sessions of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from ifmmin.benchmarks.record import OURS, TWIN, YARDSTICK
from ifmmin.benchmarks.scenarios.entrant import Entrant, Features, Way
from ifmmin.benchmarks.scenarios.plan import Plan
from ifmmin.benchmarks.yardstick import open_yardstick
from ifmmin.runtime.backends import BackendOptions
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.check_golden import GoldenRun, GoldenVectors, read_golden
from ifmmin.runtime.errors import BundleError, IfmminError, ParityError
from ifmmin.runtime.modality import Pattern
from ifmmin.runtime.predictor import Predictor

SESSIONS = 3
"""Of every graph of ours, its twin and a yardstick in latencies; each round asks another one."""


class Ours:
    """Predictors, twins and yardsticks of one run, each made at its first use.

    refuse: is told what is left out, on how many threads, and why.
    """

    def __init__(
        self,
        plan: Plan,
        bundle: Bundle,
        say: Callable[[str], None],
        refuse: Callable[[str, int, Exception | str], None],
    ) -> None:
        self._plan, self._bundle = plan, bundle
        self._say, self._refuse = say, refuse
        self._predictors: dict[tuple[Way, str], Predictor | None] = {}
        self._yardsticks: dict[tuple[Pattern, int], list[Entrant]] = {}

    def predictor(self, way: Way, name: str = OURS) -> Predictor | None:
        """A predictor with sessions of its own; None where it cannot run, which is noted."""
        if (way, name) not in self._predictors:
            self._predictors[way, name] = self._open(way)
        return self._predictors[way, name]

    def entrants(self, pattern: Pattern, threads: int) -> list[Entrant]:
        """Our own ways to answer a pattern, each held against the golden vectors, and the first
        one's twin."""
        found: list[Entrant] = []
        for way in ways(self._plan):
            if way.threads == threads:
                found += self._entrant(pattern, way, OURS)
        return found + self._entrant(pattern, found[0].way, TWIN) if found else []

    def yardstick(self, pattern: Pattern, threads: int) -> list[Entrant]:
        """A yardstick in a list; none where it cannot run, or something else answers."""
        if not set(self._plan.backends) <= {"onnxruntime-cpu", "openvino"}:
            return []
        key = (pattern, threads)
        if key not in self._yardsticks:
            dims = {m: self._bundle.manifest.modalities[m].dim for m in pattern}
            way = Way("onnxruntime-cpu", "fp32", threads)
            try:
                call, *others = (open_yardstick(dims, pattern, threads) for _ in range(SESSIONS))
                self._yardsticks[key] = [Entrant(YARDSTICK, call, way, others=others, peer=True)]
            except ImportError as error:
                self._refuse(YARDSTICK, threads, error)
                self._yardsticks[key] = []
        return self._yardsticks[key]

    def _entrant(self, pattern: Pattern, way: Way, name: str) -> list[Entrant]:
        predictor = self.predictor(way, name)
        if predictor is None:
            return []
        example = {m: x[:50] for m, x in self.golden.items() if m in pattern}
        try:
            answer = predictor.predict(example)
            self._require_right(predictor, pattern, way)
        except IfmminError as error:
            self._refuse(f"{way.backend} {way.precision} {pattern}", way.threads, error)
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
        entry = self._bundle.entry(pattern, way.precision, "latency", way.backend)
        golden = GoldenRun(self._bundle.manifest, self._vectors)
        check = golden.check(entry, lambda inputs: [predictor.predict(inputs).logits], whole=True)
        if check is None or not check.passed:
            raise ParityError(f"{entry.file} was not timed: {check.detail if check else ''}")

    def _open(self, way: Way) -> Predictor | None:
        try:
            return Predictor(
                self._plan.bundle,
                backend=way.backend,
                precision=way.precision,
                threads=way.threads,
                options=BackendOptions(progress=self._say),
            )
        except IfmminError as error:
            self._refuse(f"{way.backend} {way.precision}", way.threads, error)
            return None

    @cached_property
    def _vectors(self) -> GoldenVectors:
        vectors, check = read_golden(self._bundle)
        if vectors is None:
            raise BundleError(f"{check}")
        return vectors

    @cached_property
    def golden(self) -> Features:
        """Frames of all golden inputs, one after the other."""
        inputs = self._bundle.golden_inputs()
        return {m: np.concatenate([one[m] for one in inputs]) for m in inputs[0]}


def ways(plan: Plan) -> Iterator[Way]:
    """Every combination that was asked for."""
    for threads in plan.threads:
        for backend in plan.backends:
            for precision in plan.precisions:
                yield Way(backend, precision, threads)
