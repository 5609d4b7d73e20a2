"""Stands in for a system under load, what is asked of it, and a clock that nothing else moves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from ifmmin.benchmarks.scenarios.loadgen.base import Length, Plan, Scenario
from ifmmin.benchmarks.scenarios.loadgen.measure import Generator, make_generator
from ifmmin.runtime.errors import BackendUnavailable

COUNT, DELAY = 20, 0.002
TRUTH = np.array([[index, -index, 0.5 * index] for index in range(COUNT)])


class FakeSystem:
    """Answers with a row of TRUTH per sample, `delay` seconds later for each."""

    name = "fake"
    count = COUNT

    def __init__(self, delay: float = 0.0, fails_at: int = 0, failure: BaseException | None = None):
        self.delay = delay
        self.fails_at = fails_at
        """Issue, counted from 1, that raises `failure`, as do all later ones."""
        self.failure = failure or RuntimeError("out of order")
        self.issues: list[list[int]] = []

    def issue(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """Logits (N, 3)."""
        self.issues.append(list(indices))
        if 0 < self.fails_at <= len(self.issues):
            raise self.failure
        if self.delay:
            time.sleep(self.delay * len(indices))
        return TRUTH[list(indices)].astype(np.float32)

    @property
    def asked(self) -> list[int]:
        """Samples in the order asked for."""
        return [index for issue in self.issues for index in issue]


PLAN = Plan(
    scenario="single-stream", seconds=0.3, queries=64, seed=3, expected_seconds=DELAY, rate=100.0,
    latency_limit=0.5,
)  # fmt: skip
BRIEF = Length(name="brief", seconds=0.2, offline_samples=32, probe_seconds=0.15, probes=3)


def plan(scenario: Scenario, **changes: Any) -> Plan:
    """What a generator is told."""
    return msgspec.structs.replace(PLAN, scenario=scenario, **changes)


def generator_called(name: str) -> Generator:
    """A generator; skips the test where it is not installed."""
    try:
        return make_generator(name)
    except BackendUnavailable as error:
        pytest.skip(str(error))


class MadeClock:
    """In the place of the module `time`, for what asks it how late it is."""

    now = 1000.0
    """Seconds."""

    def monotonic(self) -> float:
        """As of `time`."""
        return self.now

    def perf_counter(self) -> float:
        """As of `time`."""
        return self.now
