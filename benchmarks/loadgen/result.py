"""What came of a scenario."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.benchmarks.loadgen.settings import Scenario

PERCENTILES = (0.50, 0.90, 0.95, 0.97, 0.99, 0.999)
"""Those that LoadGen reports."""
FIGURE = {"single-stream": "p90", "multi-stream": "p99", "offline": "rate", "server": "rate"}
"""The metric that a scenario is about."""


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
    system: str
    generator: str
    """`loadgen` with its version, or `own`."""
    valid: bool
    """Whether the load was made and measured as MLPerf's rules want it."""
    why_not: tuple[str, ...]
    """Why it is not valid; empty where it is."""
    metrics: dict[str, float]
    """As in `Run`; `rate` is the figure of offline and of the server, 0 where no rate held."""
    queries: int
    samples: tuple[float, ...]
    """Latencies in seconds, of queries, of the run that the metrics are of; empty where they were
    too many to keep."""
    seconds: float
    """All of it: warming up, the accuracy run, probing."""
    settings: dict[str, Any]
    accuracy: AnswerCheck

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
