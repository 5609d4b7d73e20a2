"""MLPerf's scenarios for a bundle and the peer to beat: answers are checked, then load is made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import IfmminError
from ifmmin.runtime.modality import Pattern

from ..record import OURS, Row
from .bench import Bench
from .contenders import Contender
from .loadgen.base import (
    FULL,
    SAMPLES_PER_QUERY,
    CallSystem,
    Length,
    PredictorSystem,
    Result,
    Scenario,
    Settings,
    System,
)
from .loadgen.measure import measure_scenario
from .plan import MONOLITH, ORDINARY, alone_and_fullest, ordinary_lengths

BRIEF = Length(name="brief", seconds=1.0, offline_samples=256, probe_seconds=0.4, probes=4)
"""A few seconds a scenario; not a valid MLPerf run, and its rows say so."""
LONGEST_SECONDS = 30.0
"""No scenario begins after so many, without the full rules."""
_ORDER: tuple[Scenario, ...] = ("single-stream", "offline", "multi-stream", "server")
"""What takes longest comes last."""
_RATES = ("offline", "server")
_BATCHES = ("offline", "multi-stream")
_UTTERANCES = 32
_TOLERANCE = {"fp32": 1e-3}
"""Of a logit, between an answer under load and the same utterance asked alone, by precision."""
_REDUCED_TOLERANCE = 0.1
"""Of other precisions: 8-bit activations are scaled by the largest of a whole batch."""


@dataclass(frozen=True)
class _Load:
    """A contender under load, and its answers to each utterance alone (N, C)."""

    contender: Contender
    pattern: Pattern
    system: System
    truth: NDArray[np.float32]


def load(bench: Bench, *, length: Length = BRIEF, generator: str = "auto") -> list[Row]:
    """Rows of every scenario for the acoustic pattern and the fullest one.

    Utterances are of ordinary length; with the plan's `full_rules` each scenario takes as long as
    MLPerf's rules want. length, generator: see `loadgen.Settings`.
    """
    plan = bench.plan
    settings = Settings(
        length=FULL if plan.full_rules else length, seed=plan.seed, generator=generator
    )
    loads = list(_loads(bench))
    ends = time.monotonic() + LONGEST_SECONDS
    rows = []
    for scenario in _ORDER:
        for one in loads:
            if scenario == "multi-stream" and one.contender.name != OURS:
                continue  # a peer has no batches: eight single calls, one after the other
            if time.monotonic() > ends and not plan.full_rules:
                why = f"the {LONGEST_SECONDS:g} s of this scenario were over; take --full-rules"
                rows.append(_row(bench, one, scenario, note=why))
                continue
            rows.append(_measured(bench, one, scenario, settings))
    return rows


def _loads(bench: Bench) -> Iterator[_Load]:
    """Ours before the peer, the acoustic pattern before the fullest one: time may be short, and
    a server's rate of slow answers takes long to find."""
    threads, patterns = bench.plan.threads[0], alone_and_fullest(bench.patterns)
    contenders = {pattern: bench.contenders(pattern, threads) for pattern in patterns}
    for name in (OURS, MONOLITH):
        for pattern in patterns:
            for contender in contenders[pattern]:
                if contender.name == name:
                    yield _load(bench, contender, pattern)


def _load(bench: Bench, contender: Contender, pattern: Pattern) -> _Load:
    features = [bench.ordinary(pattern, number) for number in range(_UTTERANCES)]
    inputs = [contender.ready(given, ORDINARY) for given in features]
    answers = [contender.call(given) for given in inputs]
    if contender.name != OURS:
        system: System = CallSystem(contender.name, contender.call, inputs)
        return _Load(contender, pattern, system, np.stack(answers))
    predictor = bench.predictor(contender.config)
    assert predictor is not None
    system = PredictorSystem(contender.name, predictor, features)
    return _Load(contender, pattern, system, np.stack([answer.logits for answer in answers]))


def _measured(bench: Bench, one: _Load, scenario: Scenario, settings: Settings) -> Row:
    bench.log(f"{scenario} of {one.contender.name}, {one.pattern}")
    tolerance = _TOLERANCE.get(one.contender.config.precision, _REDUCED_TOLERANCE)
    try:
        result = measure_scenario(
            one.system, scenario, settings, truth=one.truth, tolerance=tolerance
        )
    except IfmminError as error:
        bench.log(f"{one.contender.name} is left out: {error}")
        return _row(bench, one, scenario, note=str(error))
    if scenario in _RATES:
        samples: tuple[float, ...] = (result.figure,) if result.figure > 0 else ()
    else:
        samples = result.samples or (result.figure,)
    note = describe_result(result)
    precision = one.contender.config.precision
    if scenario in _BATCHES and one.contender.name == OURS:
        if precision == "int8":
            note += "; one by one: in int8 an answer would depend on its batch"
        elif not bench.bundle.find("throughput", one.pattern, precision):
            note += "; one by one: no throughput graph, which ifmmin-export --shape throughput adds"
    return _row(bench, one, scenario, samples=samples, note=note)


def _row(bench: Bench, one: _Load, scenario: Scenario, **more: Any) -> Row:
    return bench.row(
        scenario,
        one.contender,
        one.pattern,
        lengths=ordinary_lengths(one.pattern),
        batch=SAMPLES_PER_QUERY if scenario == "multi-stream" else 1,
        unit="1/s" if scenario in _RATES else "s",
        **more,
    )


def describe_result(result: Result) -> str:
    """Which generator, what it found, whether it counts, and how right the answers were."""
    metrics, words = result.metrics, []
    if result.scenario == "server":
        limit = f"{result.latency_limit * 1e3:g} ms"
        if result.figure > 0:
            words.append(f"99 % within {metrics['p99'] * 1e3:.3g} ms, limit {limit}")
        else:
            words.append(f"no rate held the limit of {limit}")
    elif result.scenario != "offline":
        if not result.samples:
            words.append("latencies were too many to keep: the sample is the percentile")
        name = "p90" if result.scenario == "single-stream" else "p99"
        words.append(f"{name} {metrics[name] * 1e3:.3g} ms over {result.queries:,} queries")
    why = f" ({'; '.join(result.why_not)})" if result.why_not else ""
    off = result.accuracy.max_difference or 0.0
    words += [
        f"load by {result.generator}",
        f"{'not ' if why else ''}valid by MLPerf's rules{why}",
        f"all {result.accuracy.samples} answers of the accuracy run are "
        f"{f'within {off:.0e} of ' if off else ''}those given alone",
    ]
    return "; ".join(words)
