"""One scenario from beginning to end: the answers first, then the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ifmmin.benchmarks.loadgen.answers import check_answers
from ifmmin.benchmarks.loadgen.choose import Generator, make_generator
from ifmmin.benchmarks.loadgen.peak import Peak, find_peak
from ifmmin.benchmarks.loadgen.result import Result, Run
from ifmmin.benchmarks.loadgen.settings import (
    PROBE_QUERIES,
    RULES_QUERIES,
    RULES_SECONDS,
    SCENARIOS,
    Plan,
    Scenario,
    Settings,
)
from ifmmin.benchmarks.loadgen.system import System, seconds_of_issue
from ifmmin.runtime.errors import InputError

_OFFLINE_BATCH = 64
_OPTIMISM = 0.8
"""Queries are made ready for a system that is a quarter faster than it was found."""

Say = Callable[[str], None]


def measure_scenario(
    system: System,
    scenario: Scenario,
    settings: Settings | None = None,
    *,
    truth: NDArray[np.floating] | None = None,
    tolerance: float = 1e-3,
    say: Say | None = None,
) -> Result:
    """Check the system's answers to every sample, then measure it under a scenario.

    truth: logits (N, C) of the samples. say: hears what is being done. Raises ParityError where an
    answer differs from the truth by more than `tolerance`, and whatever the system raises.
    """
    if scenario not in SCENARIOS:
        raise InputError(f"scenario: got {scenario!r}, wanted one of {', '.join(SCENARIOS)}")
    settings = settings or Settings()
    say = say or _silent
    started = time.perf_counter()
    generator = make_generator(settings.generator, settings.logs)
    plan = _plan(system, scenario, settings)
    say(f"{scenario}: answers of {system.count} samples, by {generator.name}")
    answers = generator.answers(system, plan)
    accuracy = check_answers(system, scenario, answers, truth, tolerance)
    say(f"{scenario}: {settings.length.seconds:g} s and more, by {generator.name}")
    run, more = _perform(generator, system, plan, settings, say)
    why_not = (*run.complaints, *_against_the_rules(generator, scenario, settings))
    return Result(
        scenario=scenario,
        system=system.name,
        generator=generator.name,
        valid=not why_not,
        why_not=why_not,
        metrics=run.metrics,
        queries=run.queries,
        samples=run.latencies,
        seconds=time.perf_counter() - started,
        settings=settings.as_record() | more,
        accuracy=accuracy,
    )


def _plan(system: System, scenario: Scenario, settings: Settings) -> Plan:
    """A run of the full length, after the system was warmed up and asked how fast it is."""
    plan = Plan(
        scenario=scenario,
        seconds=settings.length.seconds,
        queries=settings.length.queries(scenario),
        seed=settings.seed,
        expected_seconds=1.0,
        latency_limit=settings.latency_limit,
    )
    size = _OFFLINE_BATCH if scenario == "offline" else plan.samples_per_query
    seconds = seconds_of_issue(system, size)
    if scenario == "offline":
        seconds /= size
    elif scenario == "server":
        return replace(plan, expected_seconds=seconds)
    return replace(plan, expected_seconds=_OPTIMISM * seconds)


def _perform(
    generator: Generator, system: System, plan: Plan, settings: Settings, say: Say
) -> tuple[Run, dict[str, Any]]:
    """A run, and what more to record of how it came about."""
    if plan.scenario != "server":
        return generator.perform(system, plan), {}

    def at(rate: float, seconds: float, queries: int) -> Run:
        say(f"server: {rate:.4g} queries a second for {seconds:g} s")
        changed = replace(plan, rate=rate, seconds=seconds, queries=queries)
        return generator.perform(system, changed)

    # Where one answer alone takes longer than the limit, one trial is enough to show it.
    hopeless = plan.expected_seconds > plan.latency_limit
    peak = find_peak(
        lambda rate: at(rate, settings.length.probe_seconds, PROBE_QUERIES),
        lambda rate: at(rate, plan.seconds, plan.queries),
        plan.expected_seconds,
        1 if hopeless else settings.length.probes,
    )
    return _of_peak(peak), {"tried": [list(pair) for pair in peak.tried]}


def _of_peak(peak: Peak) -> Run:
    rates = {"rate": peak.rate, "failed rate": peak.failed_rate}
    return replace(peak.run, metrics=rates | peak.run.metrics)


def _against_the_rules(
    generator: Generator, scenario: Scenario, settings: Settings
) -> tuple[str, ...]:
    """Why a run cannot be valid, however well it went."""
    length, found = settings.length, []
    if length.seconds < RULES_SECONDS:
        found.append(f"a run of {length.seconds:g} s; MLPerf's rules want {RULES_SECONDS:g} s")
    if length.queries(scenario) < RULES_QUERIES[scenario]:
        found.append(
            f"{length.queries(scenario)} samples at least; MLPerf's rules want "
            f"{RULES_QUERIES[scenario]}"
        )
    if not generator.name.startswith("loadgen"):
        found.append("made by our own generator, not by MLPerf's: pip install 'ifmmin[loadgen]'")
    return tuple(found)


def _silent(note: str) -> None:
    """Show nothing."""
