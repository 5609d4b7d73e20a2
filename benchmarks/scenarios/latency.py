"""One utterance at a time: every way to answer a pattern, in turns, beside peers and a twin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ifmmin.benchmarks.limits import Bound, input_owners, split_time
from ifmmin.benchmarks.record import OURS, Row
from ifmmin.benchmarks.scenarios.bench import Bench, Entrant, ready
from ifmmin.benchmarks.scenarios.plan import ACOUSTIC_LENGTHS, ORDINARY
from ifmmin.benchmarks.timing import time_together
from ifmmin.runtime.errors import IfmminError
from ifmmin.runtime.modality import MODALITIES, Modality, Pattern

_STAND_IN = 60
"""Utterances drawn where no recorded lengths are given."""


def latency(bench: Bench) -> list[Row]:
    """Ordinary lengths, with the bound and how the time splits."""
    rows = []
    for threads in bench.plan.threads:
        for pattern in bench.patterns:
            bench.say(f"latency of {pattern}, {threads} threads")
            found = _measure(bench, "latency", pattern, threads, ORDINARY)
            rows += [_with_split(bench, row, pattern) for row in found]
    return rows


def length(bench: Bench) -> list[Row]:
    """The acoustic stream of several lengths, on one thread."""
    rows, threads = [], bench.plan.threads[0]
    for pattern in bench.patterns:
        if Modality.A not in pattern:
            continue
        for frames in ACOUSTIC_LENGTHS:
            bench.say(f"latency of {pattern}, {frames} acoustic frames")
            rows += _measure(bench, "length", pattern, threads, {**ORDINARY, Modality.A: frames})
    return rows


def drawn(bench: Bench) -> list[Row]:
    """Lengths as recorded: each round another utterance, the same for all who take turns."""
    lengths = recorded_lengths(bench)
    rows, threads = [], bench.plan.threads[0]
    for pattern in bench.patterns:
        bench.say(f"latency of {pattern}, lengths drawn")
        entrants = bench.entrants(pattern, threads)
        turns = [
            {
                index: ready(entrant, _present(bench, pattern, one, number), one)
                for index, entrant in enumerate(entrants)
            }
            for number, one in enumerate(lengths)
        ]
        timings = time_together(
            {str(i): _Cycle([turn[i] for turn in turns]) for i in range(len(entrants))},
            repeats=bench.plan.rounds,
            seed=bench.plan.seed,
            warm_up=bench.plan.warm_up,
            seconds=bench.plan.seconds,
        )
        rows += [
            bench.row("drawn", entrant, pattern, samples=tuple(timings[str(i)].samples))
            for i, entrant in enumerate(entrants)
        ]
    return rows


def recorded_lengths(bench: Bench) -> list[Mapping[Modality, int]]:
    """Lengths of recorded utterances, or, seeded, a stand-in: log-normal around the ordinary ones
    with a spread of one half, as utterances of acted and spontaneous speech are spread."""
    if bench.plan.lengths:
        return list(bench.plan.lengths)
    rng = np.random.default_rng(bench.plan.seed)
    spread = rng.lognormal(0.0, 0.5, (_STAND_IN, len(MODALITIES)))
    return [
        {m: max(1, round(ORDINARY[m] * factor)) for m, factor in zip(MODALITIES, row, strict=True)}
        for row in spread
    ]


class _Cycle:
    """Prepared calls, one after the other, round after round."""

    def __init__(self, calls: list[Any]) -> None:
        self._calls = calls
        self._next = 0

    def __call__(self) -> Any:
        call = self._calls[self._next % len(self._calls)]
        self._next += 1
        return call()


def _present(
    bench: Bench, pattern: Pattern, lengths: Mapping[Modality, int], shift: int = 0
) -> Any:
    return bench.features({m: lengths[m] for m in pattern}, shift)


def _measure(
    bench: Bench, scenario: str, pattern: Pattern, threads: int, lengths: Mapping[Modality, int]
) -> list[Row]:
    entrants = bench.entrants(pattern, threads)
    features = _present(bench, pattern, lengths)
    timings = time_together(
        {str(i): ready(entrant, features, lengths) for i, entrant in enumerate(entrants)},
        repeats=bench.plan.rounds,
        seed=bench.plan.seed,
        warm_up=bench.plan.warm_up,
        seconds=bench.plan.seconds,
    )
    rows = []
    for i, entrant in enumerate(entrants):
        bound = _bound(bench, entrant, pattern, lengths)
        notes = [entrant.note, *(bound.notes if bound else ())]
        rows.append(
            bench.row(
                scenario,
                entrant,
                pattern,
                lengths={m.value: lengths[m] for m in pattern},
                samples=tuple(timings[str(i)].samples),
                bound=bound.seconds if bound else None,
                note="; ".join(note for note in notes if note),
            )
        )
    return rows


def _bound(
    bench: Bench, entrant: Entrant, pattern: Pattern, lengths: Mapping[Modality, int]
) -> Bound | None:
    if entrant.name != OURS:
        return None
    try:
        return bench.bound(pattern, entrant.way, lengths)
    except IfmminError:
        return None


def _with_split(bench: Bench, row: Row, pattern: Pattern) -> Row:
    """The row with how the time divides, where ONNX Runtime's CPU can tell."""
    import msgspec

    if row.contender != OURS or row.backend != "onnxruntime-cpu" or row.bound is None:
        return row
    entry = bench.bundle.entry(pattern, row.precision)
    feed = {m.value: x for m, x in _present(bench, pattern, ORDINARY).items()}
    try:
        shares = split_time(
            bench.bundle.graph(entry), feed, input_owners(entry), threads=row.threads
        )
    except IfmminError:
        return row
    return msgspec.structs.replace(row, split=shares)
