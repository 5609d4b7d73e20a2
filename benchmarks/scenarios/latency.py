"""One utterance at a time: every way to answer a pattern, in turns, beside peers and a twin."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ifmmin.benchmarks.limits import Bound, input_owners, split_time
from ifmmin.benchmarks.record import OURS, Row
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.entrant import Entrant, Features
from ifmmin.benchmarks.scenarios.plan import ACOUSTIC_LENGTHS, ORDINARY
from ifmmin.runtime.errors import IfmminError
from ifmmin.runtime.modality import Modality, Pattern

_WARM_UP = 3
"""Calls at another length, of contenders that are warm but for that."""


def latency(bench: Bench) -> list[Row]:
    """Ordinary lengths, with the bound and how the time splits."""
    rows = []
    for threads in bench.plan.threads:
        bench.make_ready(threads)
    bench.pace.expect(len(bench.plan.threads) * len(bench.patterns))
    for threads in bench.plan.threads:
        for pattern in bench.patterns:
            bench.say(f"latency of {pattern}, {threads} threads")
            found = _measure(bench, "latency", pattern, threads, ORDINARY)
            rows += [_with_split(bench, row, pattern) for row in found]
    return rows


def length(bench: Bench) -> list[Row]:
    """The acoustic stream of several lengths, on one thread."""
    rows, threads = [], bench.plan.threads[0]
    heard = [pattern for pattern in bench.patterns if Modality.A in pattern]
    bench.make_ready(threads)
    bench.pace.expect(len(heard) * len(ACOUSTIC_LENGTHS))
    for pattern in heard:
        for frames in ACOUSTIC_LENGTHS:
            bench.say(f"latency of {pattern}, {frames} acoustic frames")
            lengths = {**ORDINARY, Modality.A: frames}
            rows += _measure(bench, "length", pattern, threads, lengths, warm_up=_WARM_UP)
    return rows


def _present(bench: Bench, pattern: Pattern, lengths: Mapping[Modality, int]) -> Features:
    return bench.features({m: lengths[m] for m in pattern})


def _measure(
    bench: Bench,
    scenario: str,
    pattern: Pattern,
    threads: int,
    lengths: Mapping[Modality, int],
    warm_up: int | None = None,
) -> list[Row]:
    entrants = bench.marked(pattern, threads)
    features = _present(bench, pattern, lengths)
    calls = {i: one.in_turns(features, lengths) for i, one in enumerate(entrants)}
    timings = bench.time(calls, warm_up=warm_up)
    rows = []
    for i, entrant in enumerate(entrants):
        bound = _latency_bound(bench, entrant, pattern, lengths)
        notes = [entrant.note, *(bound.notes if bound else ())]
        rows.append(
            bench.row(
                scenario,
                entrant,
                pattern,
                lengths={m.value: lengths[m] for m in pattern},
                samples=tuple(timings[i].samples),
                bound=bound.seconds if bound else None,
                note="; ".join(note for note in notes if note),
            )
        )
    return rows


def _latency_bound(
    bench: Bench, entrant: Entrant, pattern: Pattern, lengths: Mapping[Modality, int]
) -> Bound | None:
    if entrant.name != OURS:
        return None
    try:
        return bench.bounds.of(pattern, entrant.way, lengths)
    except IfmminError:
        return None


def _with_split(bench: Bench, row: Row, pattern: Pattern) -> Row:
    """The row with how the time divides, where ONNX Runtime's CPU can tell."""
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
