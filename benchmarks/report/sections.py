"""The parts of a report in words and tables, one a scenario; a scenario without rows has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ifmmin.benchmarks.control import spread
from ifmmin.benchmarks.record import Report, Row
from ifmmin.benchmarks.report.columns import ACCURACY, figures_of, names_of, results_of
from ifmmin.benchmarks.report.kinds import KINDS, Kind
from ifmmin.benchmarks.report.measured import Measured, compared_with, measure
from ifmmin.benchmarks.report.memory_table import memory_tables
from ifmmin.benchmarks.report.scale import percent
from ifmmin.benchmarks.report.table import Column, Section, Table, build_table
from ifmmin.runtime.modality import MODALITIES

_LETTERS = frozenset(map(str, MODALITIES))


def build_sections(report: Report) -> list[Section]:
    """Every part that has rows, in the order of KINDS."""
    return [section for kind in KINDS if (section := _section(report, kind)) is not None]


def _section(report: Report, kind: Kind) -> Section | None:
    items = measure(report, *kind.scenarios)
    if not items:
        return None
    if kind.layout == "mixed":
        columns = [*names_of(*kind.names), *results_of(items, kind.tails)]
        tables = [build_table(items, columns)]
    elif kind.layout == "memory":
        tables = memory_tables(items)
    else:
        tables = [_rows_table(part, kind) for part in _alike(items)] + _split_table(items)
    return Section(
        name=kind.name,
        title=kind.title,
        about=kind.about,
        tables=tuple(tables),
        notes=tuple(_notes(report, kind, items)),
    )


def _alike(items: Sequence[Measured]) -> list[list[Measured]]:
    """Items whose numbers can stand in one column: of one unit, and gains on one contender."""
    usual = compared_with(items)
    found: dict[tuple[str, str], list[Measured]] = {}
    for item in items:
        found.setdefault((item.row.unit, item.against or usual), []).append(item)
    return list(found.values())


def _rows_table(items: Sequence[Measured], kind: Kind) -> Table:
    energy = items[0].row.unit == "J"
    frames = _usual_frames(items)
    names = [name for name in kind.names if name != "frames" or not frames]
    if energy and "part" not in names:
        names.append("part")
    columns = names_of(*names) + figures_of(items, kind.tails)
    columns += ACCURACY if kind.accuracy else []
    parts = {item.row.part for item in items}
    title = "Energy" if energy else next(iter(parts)).capitalize() if len(parts) == 1 else ""
    return build_table(items, columns, title, frames)


def _usual_frames(items: Sequence[Measured]) -> str:
    """Lengths in words where each modality has one length in all rows; else nothing."""
    lengths: dict[str, int] = {}
    for item in items:
        for letter, count in item.row.lengths.items():
            if lengths.setdefault(letter, count) != count:
                return ""
    words = [f"{lengths[m]:,} {m}" for m in MODALITIES if m in lengths]
    return f"Frames: {', '.join(words)}." if words else ""


def _split_table(items: Sequence[Measured]) -> list[Table]:
    """Where the time goes, by part of the graph; none where nothing was profiled."""
    profiled = [item for item in items if item.row.split]
    if not profiled:
        return []
    named = dict.fromkeys(part for item in profiled for part in item.row.split or {})
    parts = [*(str(m) for m in MODALITIES if m in named), *(p for p in named if p not in _LETTERS)]

    def share_of(part: str) -> Callable[[Measured], str]:
        def cell(item: Measured) -> str:
            share = (item.row.split or {}).get(part)
            return "" if share is None else percent(share)

        return cell

    columns = names_of("pattern", "contender", "backend", "precision", "threads")
    columns += [Column(part, share_of(part)) for part in parts]
    return [build_table(profiled, columns, "Where the time goes")]


def _notes(report: Report, kind: Kind, items: Sequence[Measured]) -> list[str]:
    """What a reader must know of these rows."""
    notes = []
    if compared_with(items):
        notes.append(_noise_note(report, kind.scenarios))
    absent = [row for row in report.rows if row.scenario in kind.scenarios and not row.samples]
    notes += [f"Not measured, {row.subject}: {_sentence(row.note)}" for row in absent]
    told: dict[str, list[Row]] = {}
    for item in items:
        if item.row.note:
            told.setdefault(item.row.note, []).append(item.row)
    for note, rows in told.items():
        who = "" if len(rows) == len(items) else f"{_subjects(rows)}: "
        notes.append(f"{who}{_sentence(note)}")
    return notes


def _subjects(rows: Sequence[Row]) -> str:
    """The rows of a note, the first of many."""
    if len(rows) > 2:
        return f"{rows[0].subject} and {len(rows) - 1} other rows"
    return ", ".join(row.subject for row in rows)


def _sentence(text: str) -> str:
    """The text with a full stop."""
    return text if text.endswith(".") else f"{text}."


def _noise_note(report: Report, scenarios: Sequence[str]) -> str:
    measured = [found for name in scenarios if (found := spread(report.noise, name)) is not None]
    if not measured:
        return "No A/A control ran here, so how much of a gain is chance is not known."
    return (
        f"Two sessions of one graph differed by up to {percent(max(measured))} here (A/A control, "
        "the contender twin); a gain within that, or whose interval holds 1, is no difference."
    )
