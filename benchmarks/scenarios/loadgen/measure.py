"""One scenario from beginning to end: the answers are checked first, then the load is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ifmmin.runtime.errors import BackendUnavailable, InputError, ParityError

from .base import (
    PROBE_QUERIES,
    RULES_QUERIES,
    RULES_SECONDS,
    SCENARIOS,
    AnswerCheck,
    Plan,
    Result,
    Run,
    Scenario,
    Settings,
    System,
    seconds_of_issue,
)
from .mlperf import LoadGen
from .own import PythonGenerator

_UTMOST = 1.1
"""Times what the system does when it is asked without a pause: it cannot follow any more."""
_BACK = (1.0, 0.9, 0.75, 0.5)
"""Shares of the rate that held in trials, at which whole runs are made until one holds."""
GENERATORS = ("auto", "loadgen", "own")
_OFFLINE_BATCH = 64
_OPTIMISM = 0.8
"""Queries are made ready for a system that is a quarter faster than it was found."""
Log = Callable[[str], None]


def check_answers(
    system: System,
    scenario: Scenario,
    answers: Mapping[int, Sequence[NDArray[np.float32]]],
    truth: NDArray[np.floating] | None,
    tolerance: float,
) -> AnswerCheck:
    """Hold the answers of an accuracy run against the truth.

    answers: per sample the logits (C,), for every time it was asked. truth: (N, C), or None.
    Raises ParityError with figures for samples without an answer, for one sample that was answered
    in two ways, and for answers that differ from the truth by more than `tolerance`.
    """
    where = f"scenario {scenario}: {system.name}"
    missing = [index for index in range(system.count) if not answers.get(index)]
    if missing:
        raise ParityError(
            f"{where} left {len(missing)} of {system.count} samples without an answer, sample "
            f"{missing[0]} first; nothing was timed"
        )
    for index, several in sorted(answers.items()):
        spread = max((float(np.abs(one - several[0]).max()) for one in several[1:]), default=0.0)
        if not spread <= tolerance:
            raise ParityError(
                f"{where} answered sample {index} in two ways that differ by {spread:.1e}, allowed "
                f"{tolerance:.0e}; nothing was timed"
            )
    if truth is None:
        return AnswerCheck(samples=system.count)
    return _compare(where, np.stack([answers[i][0] for i in range(system.count)]), truth, tolerance)


def _compare(
    where: str, found: NDArray[np.float32], truth: NDArray[np.floating], tolerance: float
) -> AnswerCheck:
    if truth.shape != found.shape:
        raise InputError(f"the truth has shape {truth.shape}, the answers {found.shape}")
    off = np.abs(found - truth).max(axis=1)
    agreement = float((found.argmax(axis=1) == truth.argmax(axis=1)).mean())
    if not bool((off <= tolerance).all()):
        worst = int(np.where(np.isfinite(off), off, np.inf).argmax())
        raise ParityError(
            f"{where} answers sample {worst} with logits that differ from the truth by "
            f"{off[worst]:.1e}, allowed {tolerance:.0e}; {agreement:.0%} of {len(found)} answers "
            "agree; nothing was timed"
        )
    return AnswerCheck(samples=len(found), max_difference=float(off.max()), agreement=agreement)


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """What the search found."""

    rate: float
    """Queries a second that held, over a whole run; 0 where none did."""
    failed_rate: float
    """The smallest rate that did not hold."""
    run: Run
    """The whole run at `rate`, or the last that failed."""
    tried: tuple[tuple[float, bool], ...]
    """Every rate and whether it held, in order."""


def find_peak(
    probe: Callable[[float], Run], confirm: Callable[[float], Run], service: float, steps: int
) -> Peak:
    """Halve the interval of possible rates `steps` times, at least once, then confirm what held.

    probe, confirm: a short and a whole run at a rate. service: seconds of one answer. Where a whole
    run fails the rate steps back, to the half at most, so that the time is bounded.
    """
    low, high = 0.0, _UTMOST / service
    tried: list[tuple[float, bool]] = []
    runs: list[Run] = []
    for _ in range(steps):
        rate = (low + high) / 2
        runs.append(probe(rate))
        held = runs[-1].in_time
        tried.append((rate, held))
        low, high = (rate, high) if held else (low, rate)
    if not low:
        return Peak(rate=0.0, failed_rate=high, run=runs[-1], tried=tuple(tried))
    for rate in (low * share for share in _BACK):
        runs.append(confirm(rate))
        held = runs[-1].in_time and runs[-1].certain
        tried.append((rate, held))
        if held:
            return Peak(rate=rate, failed_rate=high, run=runs[-1], tried=tuple(tried))
        high = rate
    return Peak(rate=0.0, failed_rate=high, run=runs[-1], tried=tuple(tried))


class Generator(Protocol):
    """Makes load and measures what becomes of it."""

    name: str

    def perform(self, system: System, plan: Plan) -> Run:
        """A performance run. Raises what the system raises."""
        ...

    def answers(self, system: System, plan: Plan) -> dict[int, list[NDArray[np.float32]]]:
        """The accuracy run: per sample the logits (C,), for every time it was asked."""
        ...


def make_generator(name: str = "auto", logs: Path | None = None) -> Generator:
    """The generator called `name`; `auto` takes ours where LoadGen cannot be had.

    Raises BackendUnavailable where LoadGen was asked for and cannot be had, InputError for another
    name.
    """
    if name not in GENERATORS:
        raise InputError(f"generator: got {name!r}, wanted one of {', '.join(GENERATORS)}")
    if name == "own":
        return PythonGenerator()
    try:
        return LoadGen(logs)
    except BackendUnavailable:
        if name == "loadgen":
            raise
        return PythonGenerator()


def measure_scenario(
    system: System,
    scenario: Scenario,
    settings: Settings | None = None,
    *,
    truth: NDArray[np.floating] | None = None,
    tolerance: float = 1e-3,
    log: Log | None = None,
) -> Result:
    """Check the system's answers to every sample, then measure it under a scenario.

    truth: logits (N, C) of the samples. log: hears what is being done. Raises ParityError where an
    answer differs from the truth by more than `tolerance`, and whatever the system raises.
    """
    if scenario not in SCENARIOS:
        raise InputError(f"scenario: got {scenario!r}, wanted one of {', '.join(SCENARIOS)}")
    settings = settings or Settings()
    log = log or (lambda note: None)
    started = time.perf_counter()
    generator = make_generator(settings.generator, settings.logs)
    plan = _plan(system, scenario, settings)
    log(f"{scenario}: answers of {system.count} samples, by {generator.name}")
    answers = generator.answers(system, plan)
    accuracy = check_answers(system, scenario, answers, truth, tolerance)
    log(f"{scenario}: {settings.length.seconds:g} s and more, by {generator.name}")
    run, more = _perform(generator, system, plan, settings, log)
    why_not = (*run.complaints, *broken_rules(generator, scenario, settings))
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
    generator: Generator, system: System, plan: Plan, settings: Settings, log: Log
) -> tuple[Run, dict[str, Any]]:
    """A run, and what more to record of how it came about."""
    if plan.scenario != "server":
        return generator.perform(system, plan), {}

    def at(rate: float, seconds: float, queries: int) -> Run:
        log(f"server: {rate:.4g} queries a second for {seconds:g} s")
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
    rates = {"rate": peak.rate, "failed rate": peak.failed_rate}
    run = replace(peak.run, metrics=rates | peak.run.metrics)
    return run, {"tried": [list(pair) for pair in peak.tried]}


def broken_rules(generator: Generator, scenario: Scenario, settings: Settings) -> tuple[str, ...]:
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
