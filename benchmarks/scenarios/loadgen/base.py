"""Load scenarios of MLPerf Inference: their settings, the system under test, and its result."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import IfmminError, InputError
from ifmmin.runtime.predictor import Predictor
from ifmmin.runtime.validate import Utterance

Scenario = Literal["single-stream", "multi-stream", "offline", "server"]
SCENARIOS: tuple[Scenario, ...] = ("single-stream", "multi-stream", "offline", "server")
PERCENTILE = {"single-stream": 0.90, "multi-stream": 0.99, "offline": 0.99, "server": 0.99}
"""Share of the latencies below the one that is reported; offline reports none."""

RULES_SECONDS = 600.0
"""The least that a run lasts by the rules."""
RULES_QUERIES = {"single-stream": 100, "multi-stream": 662, "offline": 24_576, "server": 662}
"""The least number of queries; offline of samples, which are one query there. With 662 queries
LoadGen is 99 % sure of a 99th percentile."""
PROBE_QUERIES = 100
"""The least in a trial of a rate, which the whole run then confirms."""
SAMPLES_PER_QUERY = 8
"""Of multi-stream."""


class Length(msgspec.Struct, frozen=True, kw_only=True):
    """How long runs last."""

    name: str
    seconds: float
    """Of a run, at least."""
    offline_samples: int
    """Of an offline run, at least."""
    probe_seconds: float
    """Of every rate that is tried on the way to the server's."""
    probes: int = 6
    """How many rates are tried; each halves what is not known."""

    def queries(self, scenario: Scenario) -> int:
        """The least number of queries, offline of samples."""
        return self.offline_samples if scenario == "offline" else RULES_QUERIES[scenario]


FULL = Length(name="full", seconds=RULES_SECONDS, offline_samples=24_576, probe_seconds=60.0)
"""By the rules: ten minutes a scenario, and as long again for the server's rate."""
SHORT = Length(name="short", seconds=5.0, offline_samples=256, probe_seconds=2.0)
"""For daily use; not a valid MLPerf run, and its result says so."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How scenarios are run. Raises InputError for values that contradict themselves."""

    length: Length = SHORT
    seed: int = 0
    """Of the order of samples and of arrivals."""
    latency_limit: float = 0.010
    """Seconds that the server's 99th percentile may take; MLPerf's default."""
    generator: str = "auto"
    """`loadgen`: MLPerf's; `own`: ours, by the same rules; `auto`: MLPerf's if it is installed."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.latency_limit) and self.latency_limit > 0):
            raise InputError(f"latency limit: got {self.latency_limit} s, wanted more than 0")
        if not (math.isfinite(self.length.seconds) and self.length.seconds > 0):
            raise InputError(f"seconds of a run: got {self.length.seconds}, wanted more than 0")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: got {self.seed}, wanted 0 to {2**32 - 1}")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a scenario, as a generator is told of it."""

    scenario: Scenario
    seconds: float
    """Least duration."""
    queries: int
    """Least number of queries, offline of samples."""
    seed: int
    expected_seconds: float
    """Of a query, offline of a sample: a guess, by which queries are made ready."""
    rate: float = 0.0
    """Queries a second that arrive at the server."""
    latency_limit: float = 0.0
    """Seconds, of the server."""

    @property
    def samples_per_query(self) -> int:
        """Offline is one query of them all, whose number the generator chooses."""
        return SAMPLES_PER_QUERY if self.scenario == "multi-stream" else 1

    @property
    def most_waiting(self) -> int:
        """Queries at the server at once that end the run: ten times as many as may be there at the
        limit, since what waits behind them is late for good."""
        return max(20, math.ceil(10 * self.rate * self.latency_limit))


Logits = NDArray[np.float32]
"""(N, C)"""
PERCENTILES = (0.50, 0.90, 0.95, 0.97, 0.99, 0.999)
"""Those that LoadGen reports."""
FIGURE = {"single-stream": "p90", "multi-stream": "p99", "offline": "rate", "server": "rate"}
"""The metric that a scenario is about."""


class System(Protocol):
    """What is measured. One thread at a time asks it."""

    name: str
    count: int
    """Samples in its set; at least 1."""

    def issue(self, indices: Sequence[int]) -> Logits:
        """Logits (N, C) of some samples, in the order asked for; an index may come twice."""
        ...


class PredictorSystem:
    """A predictor and utterances, at least one; alone they go through `predict`, several through
    `predict_batch`."""

    def __init__(self, name: str, predictor: Predictor, utterances: Sequence[Utterance]) -> None:
        if not utterances:
            raise InputError("no utterances were given to measure with; give at least one")
        self.name = name
        self.count = len(utterances)
        self._predictor = predictor
        self._utterances = utterances

    def issue(self, indices: Sequence[int]) -> Logits:
        """Logits (N, C); batches are formed as by any caller of the predictor."""
        if len(indices) == 1:
            return self._predictor.predict(self._utterances[indices[0]]).logits[None]
        chosen = [self._utterances[index] for index in indices]
        return np.stack([answer.logits for answer in self._predictor.predict_batch(chosen)])


class CallSystem:
    """A call, which gives logits (C,), and its prepared inputs, at least one. They are answered one
    after the other: a peer has no batches."""

    def __init__(self, name: str, answer: Any, inputs: Sequence[Any]) -> None:
        if not inputs:
            raise InputError("no inputs were given to measure with; give at least one")
        self.name = name
        self.count = len(inputs)
        self._answer = answer
        self._inputs = inputs

    def issue(self, indices: Sequence[int]) -> Logits:
        """Logits (N, C)."""
        return np.stack([self._answer(self._inputs[index]) for index in indices])


def checked(system: System, indices: Sequence[int]) -> Logits:
    """What a system answers, as contiguous float32; ValueError where it is not one row a sample."""
    logits = np.ascontiguousarray(system.issue(indices), dtype=np.float32)
    if logits.ndim != 2 or len(logits) != len(indices):
        raise ValueError(
            f"{system.name} answered {len(indices)} samples with an array {logits.shape}; "
            "one row of logits a sample was wanted"
        )
    return logits


def located(failure: BaseException, scenario: str) -> BaseException:
    """The same error saying where it came from, if it is the user's to mend."""
    if not isinstance(failure, IfmminError):
        return failure
    told = type(failure)(f"scenario {scenario}: {failure}")
    told.__cause__ = failure
    return told


def seconds_of_issue(system: System, size: int, at_least: float = 0.25) -> float:
    """Median seconds of an issue of `size` samples, warmed up; asked for `at_least` seconds."""
    spent: list[float] = []
    first = -2 * size  # two issues to warm up
    while first < 0 or not spent or sum(spent) < at_least:
        indices = [index % system.count for index in range(first, first + size)]
        started = time.perf_counter()
        checked(system, indices)
        if first >= 0:
            spent.append(time.perf_counter() - started)
        first += size
    return statistics.median(spent)


class AnswerCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The accuracy run: the same samples, the same system, every sample answered."""

    samples: int
    max_difference: float | None = None
    """Largest difference of a logit to the truth; None where no truth was given."""
    agreement: float | None = None
    """Share of samples with the same winning class."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a generator found in one run."""

    metrics: dict[str, float]
    """Percentiles `p50` to `p99.9`, `mean`, `min` and `max` of the latency of queries, in seconds;
    names that end in `rate`: per second."""
    queries: int
    """Offline: samples."""
    complaints: tuple[str, ...] = ()
    """Why it does not count by the rules of its scenario; empty where it does."""
    latencies: tuple[float, ...] = ()
    """Seconds per query, in the order of their issue; empty where they were too many to keep."""
    in_time: bool = True
    """Server: whether the latency limit held, over the whole of the run."""
    certain: bool = True
    """Whether there were queries enough to be sure of the percentile; LoadGen alone asks that."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario, measured."""

    scenario: Scenario
    generator: str
    """`loadgen` with its version, or `own`."""
    why_not: tuple[str, ...]
    """Why the load was not made and measured as MLPerf's rules want it; empty where it was."""
    metrics: dict[str, float]
    """As in `Run`; `rate` is the figure of offline and of the server, 0 where no rate held."""
    queries: int
    samples: tuple[float, ...]
    """Latencies in seconds, of queries, of the run that the metrics are of; empty where they were
    too many to keep."""
    latency_limit: float
    """Seconds, of the server."""
    accuracy: AnswerCheck
    tried: tuple[tuple[float, bool], ...] = ()
    """Rates of the server that were tried, and whether each held."""

    @property
    def figure(self) -> float:
        """The figure that the scenario is about: seconds, offline and server 1/s."""
        return self.metrics[FIGURE[self.scenario]]


def percentile_name(share: float) -> str:
    """0.9 -> `p90`, 0.999 -> `p99.9`."""
    return f"p{share * 100:.1f}".removesuffix(".0")


def latency_metrics(latencies: NDArray[np.float64]) -> dict[str, float]:
    """Metrics of latencies in seconds; percentiles are LoadGen's, which does not interpolate."""
    ordered = np.sort(latencies)
    found = {percentile_name(p): float(ordered[int(len(ordered) * p)]) for p in PERCENTILES}
    whole = {"mean": ordered.mean(), "min": ordered[0], "max": ordered[-1]}
    return found | {name: float(value) for name, value in whole.items()}
