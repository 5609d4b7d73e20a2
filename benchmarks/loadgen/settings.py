"""What MLPerf's scenarios ask for, and how long they are run here.

SingleStream: one sample after the other; the figure is the 90th percentile of latency.
MultiStream: queries of 8 samples, one after the other; the 99th percentile of a query's latency.
Offline: all samples at once; samples per second.
Server: one sample a query, arriving at random (Poisson); the largest rate at which the 99th
percentile of latency, waiting included, stays within a limit.

The rules are those of MLPerf Inference, as LoadGen's own `mlperf.conf` has them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import msgspec

from ifmmin.runtime.errors import InputError

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
    logs: Path | None = None
    """Folder where LoadGen's logs are kept, one folder a run; None: nowhere."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.latency_limit) and self.latency_limit > 0):
            raise InputError(f"latency limit: got {self.latency_limit} s, wanted more than 0")
        if not (math.isfinite(self.length.seconds) and self.length.seconds > 0):
            raise InputError(f"seconds of a run: got {self.length.seconds}, wanted more than 0")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: got {self.seed}, wanted 0 to {2**32 - 1}")

    def as_record(self) -> dict[str, Any]:
        """As a report stores it; where logs lie is left out."""
        record: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(self, logs=None))
        del record["logs"]
        return record


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
    def percentile(self) -> float:
        """Share of latencies below the one that counts."""
        return PERCENTILE[self.scenario]

    @property
    def most_waiting(self) -> int:
        """Queries at the server at once that say that it cannot follow, so that the run ends.

        Ten times as many as may be there at the limit: what waits behind them is late for good.
        """
        return max(20, math.ceil(10 * self.rate * self.latency_limit))
