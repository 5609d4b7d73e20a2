"""The pace of a run: what is left is shared out, and what took long is paid for by what follows."""

from __future__ import annotations

import pytest
from made_clock import MadeClock

from ifmmin.benchmarks.run import SCENARIOS
from ifmmin.benchmarks.scenarios import plan as module
from ifmmin.benchmarks.scenarios.plan import FEWEST_ROUNDS, FIXED, SHARES, Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MadeClock:
    made = MadeClock()
    monkeypatch.setattr(module, "time", made)
    return made


def test_every_scenario_has_a_share_or_a_fixed_time() -> None:
    assert {*SHARES, *FIXED} == set(SCENARIOS)
    assert not set(SHARES) & set(FIXED)


def test_without_a_budget_a_group_is_as_long_as_planned() -> None:
    limit = Pace(None, 20.0, ["latency"]).limit()
    assert (limit.seconds, limit.fewest) == (20.0, 1)


def _spend(pace: Pace, clock: MadeClock, name: str, groups: int) -> float:
    """Groups that use what they are given; returns what the scenario had."""
    began = clock.now
    with pace.phase(name):
        pace.expect(groups)
        for _ in range(groups):
            clock.now += pace.limit().seconds
            pace.measured(150, 200)
    return clock.now - began


def test_scenarios_that_use_their_share_end_with_the_budget(clock: MadeClock) -> None:
    names = ["latency", "length", "throughput", "idle"]
    pace, began = Pace(300.0, 1e9, names), clock.now
    took = {name: _spend(pace, clock, name, 7) for name in names[:-1]}
    assert clock.now - began == pytest.approx(300.0 - FIXED["idle"])
    for name in names[1:-1]:
        assert took[name] / took["latency"] == pytest.approx(SHARES[name] / SHARES["latency"])


def test_what_takes_long_is_paid_for_by_all_that_follow(clock: MadeClock) -> None:
    pace = Pace(200.0, 1e9, ["latency", "length"])
    with pace.phase("latency"):
        with pace.phase("making ready"):
            clock.now += 50.0
        pace.expect(2)
        first = pace.limit().seconds
        whole = SHARES["latency"] + SHARES["length"]
        assert first == pytest.approx(150.0 * SHARES["latency"] / whole / 2)
        clock.now += first
        pace.measured(200, 200)
        clock.now += 200.0  # more than all that was left
        assert (pace.limit().seconds, pace.limit().fewest) == (0.0, FEWEST_ROUNDS)
        pace.measured(30, 200)
    latency, ready = pace.phases
    assert latency.name == "latency"
    assert latency.seconds == pytest.approx(first + 200.0)
    assert (latency.groups, latency.rounds, latency.cut) == (2, (30, 200), 1)
    assert (ready.name, ready.seconds, ready.groups) == ("making ready", 50.0, 0)


def test_no_group_is_longer_than_planned(clock: MadeClock) -> None:
    pace = Pace(1e6, 20.0, ["latency"])
    with pace.phase("latency"):
        assert pace.limit().seconds == 20.0
