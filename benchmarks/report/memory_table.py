"""Memory in few rows: one for each contender and stage, with a column for each measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ifmmin.benchmarks.record import Row
from ifmmin.benchmarks.report.columns import names_of
from ifmmin.benchmarks.report.measured import Measured, compared_with
from ifmmin.benchmarks.report.scale import TIMES, Scale, number
from ifmmin.benchmarks.report.table import Column, Table, build_table
from ifmmin.benchmarks.scenarios.bundle_size import PART as FILES
from ifmmin.benchmarks.scenarios.resident import PEAK, PSS, RSS, USS

MEASURES = (RSS, PSS, USS, PEAK)
_COMPARED = RSS
"""The measure that gains are told by: what every tool shows."""


@dataclass(frozen=True)
class Held:
    """One process at one stage."""

    row: Row
    stage: str
    measures: dict[str, Measured]


def stage_and_measure(part: str) -> tuple[str, str]:
    """Of a part such as `one pattern, RSS`."""
    stage, _, measure = part.rpartition(", ")
    return stage, measure


def memory_tables(items: Sequence[Measured]) -> list[Table]:
    """What processes held, then the bytes of the files that they loaded."""
    held = _held([item for item in items if item.row.part != FILES])
    files = [item for item in items if item.row.part == FILES]
    tables = [_held_table(held)] if held else []
    return tables + ([_files_table(files)] if files else [])


def _held(items: Sequence[Measured]) -> list[Held]:
    found: dict[tuple[object, ...], Held] = {}
    for item in items:
        row, (stage, measure) = item.row, stage_and_measure(item.row.part)
        key = (row.pattern, stage, row.streams, row.contender, row.backend, row.precision)
        found.setdefault(key, Held(row, stage, {})).measures[measure] = item
    return list(found.values())


def _held_table(held: Sequence[Held]) -> Table:
    scale = Scale.of("bytes", [m.summary.p50 for one in held for m in one.measures.values()])

    def size(measure: str) -> Callable[[Held], str]:
        def cell(one: Held) -> str:
            item = one.measures.get(measure)
            return "" if item is None else scale.number(item.summary.p50)

        return cell

    columns = [
        Column[Held]("pattern", lambda one: one.row.pattern, names=True, blank="any"),
        Column[Held]("stage", lambda one: one.stage, names=True),
        Column[Held]("streams", lambda one: str(one.row.streams), names=True),
        Column[Held]("contender", lambda one: one.row.contender, names=True),
        Column[Held]("backend", lambda one: one.row.backend, names=True),
        Column[Held]("precision", lambda one: one.row.precision, names=True),
        *(Column(f"{measure} {scale.unit}", size(measure)) for measure in MEASURES),
    ]
    compared = [one.measures[_COMPARED] for one in held if _COMPARED in one.measures]
    if name := compared_with(compared):
        columns.append(Column(f"{_COMPARED} gain on {name}", lambda one: _gain(one.measures)))
    rounds = {item.summary.count for one in held for item in one.measures.values()}
    caption = f"Medians of {max(rounds)} processes." if len(rounds) == 1 else "Medians."
    return build_table(held, columns, "What a process holds", caption)


def _gain(measures: dict[str, Measured]) -> str:
    item = measures.get(_COMPARED)
    return "" if item is None else _times(item)


def _files_table(files: Sequence[Measured]) -> Table:
    scale = Scale.of("bytes", [item.summary.p50 for item in files])
    pattern = Column[Measured]("pattern", lambda i: i.row.pattern, names=True, blank="all")
    columns = [pattern, *names_of("contender", "backend", "precision")]
    columns.append(Column(f"size {scale.unit}", lambda item: scale.number(item.summary.p50)))
    if name := compared_with(files):
        columns.append(Column(f"gain on {name}", _times))
    return build_table(files, columns, "Bytes of the files that are loaded")


def _times(item: Measured) -> str:
    return "" if item.gain is None else f"{number(item.gain.value)}{TIMES}"
