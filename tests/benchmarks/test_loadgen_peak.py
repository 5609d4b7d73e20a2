"""The search for a server's rate, on runs whose outcome is known."""

from __future__ import annotations

import pytest

from ifmmin.benchmarks.loadgen.base import Run
from ifmmin.benchmarks.loadgen.measure import Peak, find_peak


def holds_below(limit: float, *, certain: bool = True) -> tuple[list[float], object]:
    asked: list[float] = []

    def run(rate: float) -> Run:
        asked.append(rate)
        return Run(metrics={"p99": rate}, queries=1, in_time=rate <= limit, certain=certain)

    return asked, run


def search(probe_limit: float, confirm_limit: float, steps: int = 6) -> tuple[Peak, int, int]:
    probes, probe = holds_below(probe_limit)
    confirms, confirm = holds_below(confirm_limit)
    peak = find_peak(probe, confirm, 0.001, steps)  # type: ignore[arg-type]
    return peak, len(probes), len(confirms)


@pytest.mark.parametrize("limit", [20.0, 312.0, 700.0, 1090.0])
def test_the_rate_is_found(limit: float) -> None:
    """To a 64th of 1100 a second, which a system of 1 ms cannot follow."""
    peak, probes, confirms = search(limit, limit)
    assert limit - 1100 / 64 <= peak.rate <= limit < peak.failed_rate
    assert (probes, confirms) == (6, 1)
    assert peak.run.metrics["p99"] == peak.rate
    assert peak.tried[-1] == (peak.rate, True)


def test_a_whole_run_that_fails_steps_back() -> None:
    peak, _, confirms = search(700.0, 600.0)
    assert confirms == 3
    assert 0.7 * 700 < peak.rate < 600 < peak.failed_rate < 700
    assert peak.run.in_time


def test_the_time_is_bounded() -> None:
    peak, probes, confirms = search(700.0, 0.0)
    assert (probes, confirms) == (6, 4)
    assert peak.rate == 0
    assert not peak.run.in_time
    assert peak.failed_rate == peak.tried[-1][0]


def test_nothing_holds() -> None:
    peak, probes, confirms = search(0.0, 0.0, steps=3)
    assert (probes, confirms) == (3, 0)
    assert peak.rate == 0
    assert peak.failed_rate == pytest.approx(1100 / 8)
    assert peak.run.metrics["p99"] == peak.failed_rate


def test_a_whole_run_must_be_certain() -> None:
    _, probe = holds_below(700.0)
    asked, confirm = holds_below(700.0, certain=False)
    peak = find_peak(probe, confirm, 0.001, 4)  # type: ignore[arg-type]
    assert peak.rate == 0
    assert len(asked) == 4
