"""Bytes of the files that a device needs to answer: a pattern's graph, beside what peers load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from ifmmin.benchmarks.record import TWIN, Row
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.fresh import Fresh
from ifmmin.runtime.modality import Pattern

PART = "bundle"
_WHY = {
    "predictor": "the graph of one utterance; all patterns: one file each",
    "session": "one graph for all patterns",
    "eager": "the checkpoint",
}


def bundle_sizes(bench: Bench, contenders: Sequence[Mapping[Pattern, Fresh]]) -> list[Row]:
    """Rows per contender and pattern, and of all patterns together where there are several.

    contenders: each by the patterns that it answers.
    """
    rows = []
    for contender in contenders:
        files = {pattern: _file(bench, pattern, one) for pattern, one in contender.items()}
        first = next(iter(contender.values()))
        if first.entrant.name == TWIN:
            continue
        found = [_row(bench, contender[p], p, file.stat().st_size) for p, file in files.items()]
        if len(files) > 1:
            total = sum(file.stat().st_size for file in set(files.values()))
            row = _row(bench, first, next(iter(files)), total)
            found.append(msgspec.structs.replace(row, pattern="", accuracy=None))
        rows += found
    return rows


def _file(bench: Bench, pattern: Pattern, fresh: Fresh) -> Path:
    words, way = fresh.words, fresh.entrant.way
    if words["way"] == "predictor":
        entry = bench.bundle.entry(pattern, way.precision, backend=way.backend)
        return bench.bundle.directory / entry.file
    return Path(words.get("file") or words["checkpoint"])


def _row(bench: Bench, fresh: Fresh, pattern: Pattern, size: int) -> Row:
    return bench.row(
        "memory",
        fresh.entrant,
        pattern,
        part=PART,
        unit="bytes",
        samples=(float(size),),
        note=_WHY[fresh.words["way"]],
    )
