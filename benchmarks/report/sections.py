"""Sections of a report: which tables each scenario has, and the columns they are made of.

Tables hold only what differs: a column with one and the same word goes into the caption. Memory is
in few rows: one for each contender and stage, with a column for each measure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from ifmmin.runtime.modality import MODALITIES

from ..record import Report, Row, spread
from ..scenarios.memory import PART as FILES
from ..scenarios.worker_memory import PEAK, PSS, RSS, USS
from .summary import TIMES, Measured, Scale, compared_with, measure, number, percent, span

Item = TypeVar("Item")
NO_DIFFERENCE = "no difference"
MEASURES = (RSS, PSS, USS, PEAK)
_COMPARED = RSS
"""The measure that gains are told by: what every tool shows."""
_LETTERS = frozenset(map(str, MODALITIES))


@dataclass(frozen=True)
class Column(Generic[Item]):
    """One column of a table of items."""

    header: str
    cell: Callable[[Item], str]
    names: bool = False
    """It says what the row is: left aligned, and in the caption when all rows share it."""
    blank: str = ""
    """What an empty cell says where others in the column are not empty."""


@dataclass(frozen=True)
class Table:
    """Text in rows, the same for every way of showing it."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int
    """How many columns at the left say what the row is."""
    title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """One part of a report."""

    name: str
    """Of the scenario; also the anchor in HTML."""
    title: str
    about: str
    """What was done, and how the numbers are to be read."""
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = field(default=())


def build_table(
    items: Sequence[Item], columns: Sequence[Column[Item]], title: str = "", caption: str = ""
) -> Table:
    """Lay out items. Columns without a word are left out, shared names go before the caption."""
    cells = {column.header: [column.cell(item) for item in items] for column in columns}
    shown, shared = [], []
    for column in columns:
        words = cells[column.header]
        if not any(words):
            continue
        cells[column.header] = words = [word or column.blank for word in words]
        if column.names and len(items) > 1 and len(set(words)) == 1:
            shared.append(f"{column.header} {words[0]}")
        else:
            shown.append(column)
    everywhere = f"All rows: {', '.join(shared)}." if shared else ""
    return Table(
        headers=tuple(column.header for column in shown),
        rows=tuple(zip(*(cells[column.header] for column in shown), strict=True)),
        names=sum(column.names for column in shown),
        title=title,
        caption=" ".join(part for part in (everywhere, caption) if part),
    )


def names_of(*headers: str) -> list[Column[Measured]]:
    """Columns that say what a row is, by their headers."""
    return [_NAMES[header] for header in headers]


def figures_of(items: Sequence[Measured], tails: Sequence[int] = (99,)) -> list[Column[Measured]]:
    """Median with its interval, tails, distance from the bound, and gain. Items share a unit.

    tails: percentiles to show of times. A percentile of fewer samples than it takes to have one
    beyond it is no more than the largest sample, and is left out.
    """
    unit = items[0].row.unit
    scale = Scale.of(unit, [item.summary.p50 for item in items])

    def interval(item: Measured) -> str:
        found = item.summary.interval
        return span(scale.number(found.low), scale.number(found.high)) if found else ""

    def tail(percent: int) -> Column[Measured]:
        def cell(item: Measured) -> str:
            enough = item.summary.count >= 100 / (100 - percent)
            return scale.number(item.summary.percentile(percent)) if enough else ""

        return Column(f"p{percent} {scale.unit}", cell)

    def of_bound(item: Measured) -> str:
        return "" if item.of_bound is None else f"{number(item.of_bound)}{TIMES}"

    what = {"s": "p50 ", "1/s": "", "bytes": "size ", "J": "energy "}[unit]
    columns = [
        Column[Measured](f"{what}{scale.unit}", lambda item: scale.number(item.summary.p50)),
        Column[Measured]("95 % interval", interval),
        *map(tail, tails if unit == "s" else ()),
        Column[Measured]("of bound", of_bound),
    ]
    name = compared_with(items)
    return [*columns, Column(f"gain on {name}", gain_text)] if name else columns


def results_of(items: Sequence[Measured], tails: Sequence[int]) -> list[Column[Measured]]:
    """The same for items of several units: every cell has its own."""

    def cell(percent: int | None) -> Callable[[Measured], str]:
        def text(item: Measured) -> str:
            if (item.row.unit == "1/s") is not (percent is None):
                return ""
            value = item.summary.percentile(percent or 50)
            return Scale.of(item.row.unit, [value]).text(value)

        return text

    columns = [Column(f"p{percent}", cell(percent)) for percent in (50, *tails)]
    columns.append(Column("rate", cell(None)))
    name = compared_with(items)
    return [*columns, Column(f"gain on {name}", gain_text)] if name else columns


def frames(row: Row) -> str:
    """Lengths such as `45 a + 22 t`."""
    return " + ".join(f"{count:,} {letter}" for letter, count in row.lengths.items())


def _name(header: str, field: str = "", blank: str = "") -> Column[Measured]:
    return Column(header, lambda item: str(getattr(item.row, field or header)), True, blank)


_NAMES: dict[str, Column[Measured]] = {
    **{
        name: _name(name)
        for name in (
            "pattern", "contender", "part", "backend", "precision", "threads", "batch", "streams",
            "scenario",
        )
    },
    "stage": _name("stage", "part", blank="whole"),
    "frames": Column("frames", lambda item: frames(item.row), names=True),
    "samples": Column("samples", lambda item: f"{item.summary.count:,}", names=True),
}  # fmt: skip


def pivot(
    items: Sequence[Measured],
    names: Sequence[Column[Measured]],
    values: Mapping[str, Callable[[Measured], str]],
) -> list[dict[str, str]]:
    """A row by headers for each set of `names`, in which items fill the values they have words for.

    names: columns that say what a row is. values: the other columns, by their headers.
    """
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for item in items:
        words = {column.header: column.cell(item) for column in names}
        found = {header: text for header, cell in values.items() if (text := cell(item))}
        rows.setdefault(tuple(words.values()), words).update(found)
    return list(rows.values())


def gain_text(item: Measured) -> str:
    """The gain with its interval, or that there is none beyond the noise; empty of a baseline."""
    if item.gain is None:
        return ""
    if item.within_noise:
        return NO_DIFFERENCE
    if item.few:
        return f"about {number(item.gain.value)}{TIMES}"
    interval = span(number(item.gain.low), number(item.gain.high))
    return f"{number(item.gain.value)}{TIMES} ({interval})"


def _accuracy(name: str) -> Column[Measured]:
    def cell(item: Measured) -> str:
        accuracy = item.row.accuracy
        return f"{getattr(accuracy, name.lower()):.3f}" if accuracy else ""

    return Column(name, cell)


@dataclass(frozen=True)
class Kind:
    """How one scenario is shown."""

    name: str
    """Of the section."""
    title: str
    about: str
    names: tuple[str, ...]
    """Columns that say what a row is."""
    tails: tuple[int, ...] = (99,)
    """Percentiles to show beside the median."""
    accuracy: bool = False
    layout: Literal["rows", "mixed", "memory"] = "rows"
    """Mixed: units stand in the cells, since the rows have several. Memory: a column a measure."""
    several: tuple[str, ...] = ()
    """Scenarios of the section; none: the one of its name."""

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Scenarios whose rows it shows."""
        return self.several or (self.name,)


_WHO = ("contender", "backend", "precision", "threads")
KINDS = (
    Kind(
        "latency", "Latency of one utterance",
        "One call at a time on an utterance of ordinary length. Contenders of a pattern take turns "
        "in an order that is shuffled anew every round, each in a session of its own; every timed "
        "call follows some of its own that are not timed, as where one network answers on and on.",
        ("pattern", *_WHO, "frames", "samples"), accuracy=True,
    ),
    Kind(
        "length", "Latency against length", "The same call on longer and longer utterances.",
        ("pattern", "frames", *_WHO, "samples"),
    ),
    Kind(
        "throughput", "Throughput by batch",
        "Utterances a second when several are answered by one call.",
        ("pattern", "batch", *_WHO, "frames", "samples"),
    ),
    Kind(
        "stream", "An update of a stream",
        "New frames come in and an answer is wanted; the table has the frames that came before.",
        ("pattern", "frames", "part", *_WHO, "samples"),
    ),
    Kind(
        "streams", "Many streams at once", "Updates while one process serves several streams.",
        ("pattern", "streams", "part", *_WHO, "samples"),
    ),
    Kind(
        "signal", "From a recording to its emotion",
        "A wav of four seconds with a synthetic voice, and a sentence: every part alone, and all "
        "of it. Features of sound hold the detection of speech, which is also told apart.",
        ("pattern", "part", *_WHO, "samples"),
    ),
    Kind(
        "cold-start", "Cold start",
        "A fresh process up to its first answer. Medians of parts need not add up to the median of "
        "the whole.",
        ("pattern", "stage", *_WHO, "samples"), tails=(),
    ),
    Kind(
        "idle", "After a pause",
        "The first call after nothing was asked for a while: caches and clocks have cooled.",
        ("pattern", "part", *_WHO, "samples"), tails=(),
    ),
    Kind(
        "memory", "Memory", "Resident memory of a process that has answered.",
        ("pattern", "part", *_WHO, "samples"), tails=(), layout="memory",
    ),
    Kind(
        "load", "MLPerf's scenarios",
        "Single-stream: one query after the other, judged by its 90th percentile. Multi-stream: "
        "queries of 8 utterances, by the 99th. Offline: everything at once, in utterances a "
        "second. Server: the largest rate of random arrivals at which the limit on latency holds.",
        ("scenario", "pattern", *_WHO, "batch", "samples"), tails=(90, 99), layout="mixed",
        several=("single-stream", "multi-stream", "offline", "server"),
    ),
)  # fmt: skip


def stage_and_measure(part: str) -> tuple[str, str]:
    """Of a part such as `one pattern, RSS`."""
    stage, _, measure = part.rpartition(", ")
    return stage, measure


def _held_table(held: Sequence[Measured]) -> Table:
    scale = Scale.of("bytes", [item.summary.p50 for item in held])

    def of(measure: str, cell: Callable[[Measured], str]) -> Callable[[Measured], str]:
        return lambda i: cell(i) if stage_and_measure(i.row.part)[1] == measure else ""

    names = [
        _name("pattern", blank="any"),
        Column[Measured]("stage", lambda i: stage_and_measure(i.row.part)[0], names=True),
        *names_of("streams", "contender", "backend", "precision"),
    ]
    values = {
        f"{measure} {scale.unit}": of(measure, lambda i: scale.number(i.summary.p50))
        for measure in MEASURES
    }
    if name := compared_with(i for i in held if stage_and_measure(i.row.part)[1] == _COMPARED):
        values[f"{_COMPARED} gain on {name}"] = of(_COMPARED, _times)
    columns = [_pivoted(column.header, column.names, column.blank) for column in names]
    columns += map(_pivoted, values)
    rounds = {item.summary.count for item in held}
    caption = f"Medians of {max(rounds)} processes." if len(rounds) == 1 else "Medians."
    return build_table(pivot(held, names, values), columns, "What a process holds", caption)


def _pivoted(header: str, names: bool = False, blank: str = "") -> Column[dict[str, str]]:
    return Column(header, lambda row: row.get(header, ""), names, blank)


def _files_table(files: Sequence[Measured]) -> Table:
    scale = Scale.of("bytes", [item.summary.p50 for item in files])
    columns = [_name("pattern", blank="all"), *names_of("contender", "backend", "precision")]
    columns.append(Column(f"size {scale.unit}", lambda item: scale.number(item.summary.p50)))
    if name := compared_with(files):
        columns.append(Column(f"gain on {name}", _times))
    return build_table(files, columns, "Bytes of the files that are loaded")


def _times(item: Measured) -> str:
    return "" if item.gain is None else f"{number(item.gain.value)}{TIMES}"


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
        held = [item for item in items if item.row.part != FILES]
        files = [item for item in items if item.row.part == FILES]
        tables = [_held_table(held)] if held else []
        tables += [_files_table(files)] if files else []
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
    columns += map(_accuracy, ("WA", "UA", "ECE") if kind.accuracy else ())
    parts = {item.row.part for item in items}
    title = "Energy" if energy else next(iter(parts)).capitalize() if len(parts) == 1 else ""
    return build_table(items, columns, title, frames)


def _usual_frames(items: Sequence[Measured]) -> str:
    """Lengths in words where each modality has one length in all rows; else nothing."""
    lengths: dict[str, set[int]] = {}
    for item in items:
        for letter, count in item.row.lengths.items():
            lengths.setdefault(letter, set()).add(count)
    if not lengths or any(len(counts) > 1 for counts in lengths.values()):
        return ""
    return f"Frames: {', '.join(f'{min(lengths[m]):,} {m}' for m in MODALITIES if m in lengths)}."


def _split_table(items: Sequence[Measured]) -> list[Table]:
    """Where the time goes, by part of the graph; none where nothing was profiled."""
    profiled = [item for item in items if item.row.split]
    if not profiled:
        return []
    named = dict.fromkeys(part for item in profiled for part in item.row.split or {})
    parts = [*(str(m) for m in MODALITIES if m in named), *(p for p in named if p not in _LETTERS)]

    def share(part: str) -> Column[Measured]:
        def cell(item: Measured) -> str:
            found = (item.row.split or {}).get(part)
            return "" if found is None else percent(found)

        return Column(part, cell)

    columns = names_of("pattern", "contender", "backend", "precision", "threads")
    return [build_table(profiled, [*columns, *map(share, parts)], "Where the time goes")]


def _notes(report: Report, kind: Kind, items: Sequence[Measured]) -> list[str]:
    """What a reader must know of these rows."""
    notes = []
    noise = [found for name in kind.scenarios if (found := spread(report.noise, name)) is not None]
    if compared_with(items) and noise:
        notes.append(
            f"Two sessions of one graph differed by up to {percent(max(noise))} here (A/A control, "
            "the contender control); a gain within that, or whose interval holds 1, is no "
            "difference."
        )
    elif compared_with(items):
        notes.append("No A/A control ran here, so how much of a gain is chance is not known.")
    absent = [row for row in report.rows if row.scenario in kind.scenarios and not row.samples]
    notes += [f"Not measured, {row.subject}: {_sentence(row.note)}" for row in absent]
    told: dict[str, list[Row]] = {}
    for item in items:
        if item.row.note:
            told.setdefault(item.row.note, []).append(item.row)
    for note, rows in told.items():
        who = ", ".join(row.subject for row in rows)
        if len(rows) > 2:
            who = f"{rows[0].subject} and {len(rows) - 1} other rows"
        notes.append(_sentence(note if len(rows) == len(items) else f"{who}: {note}"))
    return notes


def _sentence(text: str) -> str:
    """The text with a full stop."""
    return text if text.endswith(".") else f"{text}."
