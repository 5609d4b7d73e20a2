"""One scenario from beginning to end: the answers are checked first, then the load is timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ifmmin.runtime.errors import BackendUnavailable, InputError, ParityError
from ifmmin.runtime.prediction import largest_differences

from .base import (
    PROBE_QUERIES,
    RULES_QUERIES,
    RULES_SECONDS,
    SCENARIOS,
    AnswerCheck,
    Length,
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
        apart = (largest_differences(one, several[0]) for one in several[1:])
        spread = float(max(apart, default=0.0))
        if spread > tolerance:
            raise ParityError(
                f"{where} answered sample {index} in two ways that differ by {spread:.1e}, allowed "
                f"{tolerance:.0e}; nothing was timed"
            )
    if truth is None:
        return AnswerCheck(samples=system.count)
    found = np.stack([answers[i][0] for i in range(system.count)])
    if truth.shape != found.shape:
        raise InputError(f"the truth has shape {truth.shape}, the answers {found.shape}")
    off = largest_differences(found, truth)
    agreement = float((found.argmax(axis=1) == truth.argmax(axis=1)).mean())
    worst = int(off.argmax())
    if off[worst] > tolerance:
        raise ParityError(
            f"{where} answers sample {worst} with logits that differ from the truth by "
            f"{off[worst]:.1e}, allowed {tolerance:.0e}; {agreement:.0%} of {len(found)} answers "
            "agree; nothing was timed"
        )
    return AnswerCheck(samples=len(found), max_difference=float(off[worst]), agreement=agreement)


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
    run: Run | None = None
    for _ in range(steps):
        rate = (low + high) / 2
        run = probe(rate)
        tried.append((rate, run.in_time))
        low, high = (rate, high) if run.in_time else (low, rate)
    held = 0.0
    for rate in (low * share for share in _BACK if low):
        run = confirm(rate)
        tried.append((rate, run.in_time and run.certain))
        if tried[-1][1]:
            held = rate
            break
        high = rate
    assert run is not None, "at least one step was asked for"
    return Peak(rate=held, failed_rate=high, run=run, tried=tuple(tried))


Generator = PythonGenerator | LoadGen
"""Makes load and measures what becomes of it."""


def make_generator(name: str = "auto") -> Generator:
    """The generator called `name`; `auto` takes ours where LoadGen cannot be had.

    Raises BackendUnavailable where LoadGen was asked for and cannot be had, InputError for another
    name.
    """
    if name not in GENERATORS:
        raise InputError(f"generator: got {name!r}, wanted one of {', '.join(GENERATORS)}")
    if name != "own":
        try:
            return LoadGen()
        except BackendUnavailable:
            if name == "loadgen":
                raise
    return PythonGenerator()


def measure_scenario(
    system: System,
    scenario: Scenario,
    settings: Settings,
    *,
    truth: NDArray[np.floating] | None = None,
    tolerance: float = 1e-3,
) -> Result:
    """Check the system's answers to every sample, then measure it under a scenario.

    truth: logits (N, C) of the samples. Raises ParityError where an answer differs from the truth
    by more than `tolerance`, and whatever the system raises.
    """
    if scenario not in SCENARIOS:
        raise InputError(f"scenario: got {scenario!r}, wanted one of {', '.join(SCENARIOS)}")
    generator = make_generator(settings.generator)
    plan = _plan(system, scenario, settings)
    answers = generator.answers(system, plan)
    accuracy = check_answers(system, scenario, answers, truth, tolerance)
    tried: tuple[tuple[float, bool], ...] = ()
    if scenario == "server":
        peak = _peak(generator, system, plan, settings.length)
        run, tried = peak.run, peak.tried
        metrics = {"rate": peak.rate, "failed rate": peak.failed_rate} | run.metrics
    else:
        run = generator.perform(system, plan)
        metrics = run.metrics
    return Result(
        scenario=scenario,
        generator=generator.name,
        why_not=(*run.complaints, *broken_rules(generator, scenario, settings)),
        metrics=metrics,
        queries=run.queries,
        samples=run.latencies,
        latency_limit=settings.latency_limit,
        accuracy=accuracy,
        tried=tried,
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


def _peak(generator: Generator, system: System, plan: Plan, length: Length) -> Peak:
    """The largest rate of a server that holds."""

    def at(rate: float, seconds: float, queries: int) -> Run:
        changed = replace(plan, rate=rate, seconds=seconds, queries=queries)
        return generator.perform(system, changed)

    # Where one answer alone takes longer than the limit, one trial is enough to show it.
    hopeless = plan.expected_seconds > plan.latency_limit
    return find_peak(
        lambda rate: at(rate, length.probe_seconds, PROBE_QUERIES),
        lambda rate: at(rate, plan.seconds, plan.queries),
        plan.expected_seconds,
        1 if hopeless else length.probes,
    )


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
