"""Many utterances at once: samples a second by the size of the batch, ours and the monolith's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ifmmin.benchmarks.record import OURS, TWIN, YARDSTICK, Row
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.entrant import Entrant, Features
from ifmmin.benchmarks.scenarios.plan import BATCHES, MONOLITH, ORDINARY
from ifmmin.benchmarks.statistics import FEWEST
from ifmmin.runtime.modality import Pattern

_ROUNDS = 20
_IN_A_ROW = 8
"""Utterances of a sample of the monolith's and of the yardstick's: they are asked one by one, so
that a larger batch is the same again, and takes long."""


def throughput(bench: Bench) -> list[Row]:
    """`predict_batch` of one pattern, against the monolith asked one by one, on one thread.

    Patterns without graphs for batches are left out, and noted.
    """
    rows, threads = [], bench.plan.threads[0]
    patterns = [pattern for pattern in bench.patterns if bench.bundle.has("throughput", pattern)]
    if lacking := [str(pattern) for pattern in bench.patterns if pattern not in patterns]:
        bench.refuse(
            "throughput",
            threads,
            f"the bundle has no throughput graphs of {', '.join(lacking)}, so that batches are "
            "answered one by one; ifmmin-export CHECKPOINT --shape throughput adds them",
        )
    bench.pace.expect(len(patterns) * len(BATCHES))
    for pattern in patterns:
        for batch in BATCHES:
            bench.say(f"throughput of {pattern}, batches of {batch}")
            rows += _measure_batches(bench, pattern, threads, batch)
    return rows


def _measure_batches(bench: Bench, pattern: Pattern, threads: int, batch: int) -> list[Row]:
    entrants = [
        entrant
        for entrant in bench.entrants(pattern, threads)
        if entrant.name == MONOLITH or _takes_batches(bench, entrant, pattern)
    ]
    if any(entrant.name == OURS for entrant in entrants):
        entrants += bench.reference(pattern, threads)
    utterances = [bench.features({m: ORDINARY[m] for m in pattern}, i) for i in range(batch)]
    calls = [_call(bench, entrant, utterances) for entrant in entrants]
    timings = bench.time(
        {i: call for i, (call, _) in enumerate(calls)},
        rounds=_ROUNDS,
        warm_up=2,
        fewest=FEWEST,
        settled=False,  # a batch outlasts what its first utterance finds in the caches
    )
    return [
        bench.row(
            "throughput",
            entrant,
            pattern,
            batch=batch,
            unit="1/s",
            lengths={m.value: ORDINARY[m] for m in pattern},
            samples=tuple(calls[i][1] / np.asarray(timings[i].samples)),
            bound=_rate_bound(bench, entrant, pattern, batch),
        )
        for i, entrant in enumerate(entrants)
    ]


def _takes_batches(bench: Bench, entrant: Entrant, pattern: Pattern) -> bool:
    exported = bench.bundle.find("throughput", pattern, entrant.way.precision)
    return entrant.name in (OURS, TWIN) and bool(exported)


def _call(
    bench: Bench, entrant: Entrant, utterances: list[Features]
) -> tuple[Callable[[], Any], int]:
    """What is timed, and how many utterances it answers."""
    if entrant.name in (MONOLITH, YARDSTICK):
        calls = [entrant.prepared(features, ORDINARY) for features in utterances[:_IN_A_ROW]]
        return lambda: [call() for call in calls], len(calls)
    predictor = bench.predictor(entrant.way, entrant.name)
    assert predictor is not None
    together = partial(predictor.predict_batch, utterances, batch_size=len(utterances))
    return together, len(utterances)


def _rate_bound(bench: Bench, entrant: Entrant, pattern: Pattern, batch: int) -> float | None:
    """Utterances a second at best."""
    if entrant.name != OURS:
        return None
    bound = bench.bounds.of(pattern, entrant.way, ORDINARY, batch)
    return None if bound is None else batch / bound.seconds
