"""The columns that tables of rows are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ifmmin.benchmarks.record import Accuracy, Row
from ifmmin.benchmarks.report.measured import Measured, compared_with
from ifmmin.benchmarks.report.scale import TIMES, Scale, number, span
from ifmmin.benchmarks.report.table import Column

NO_DIFFERENCE = "no difference"


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
    what = {"s": "p50 ", "1/s": "", "bytes": "size ", "J": "energy "}[unit]
    columns: list[Column[Measured]] = [
        Column(f"{what}{scale.unit}", lambda item: scale.number(item.summary.p50)),
        Column("95 % interval", lambda item: _interval(item, scale)),
    ]
    if unit == "s":
        columns += [_tail(percent, scale) for percent in tails]
    columns.append(Column("of bound", _of_bound))
    name = compared_with(items)
    if name:
        columns.append(Column(f"gain on {name}", gain_text))
    return columns


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


ACCURACY: list[Column[Measured]] = [
    Column("WA", lambda item: _share(item.row.accuracy, "wa")),
    Column("UA", lambda item: _share(item.row.accuracy, "ua")),
    Column("ECE", lambda item: _share(item.row.accuracy, "ece")),
]
"""How right the answers are."""


def frames(row: Row) -> str:
    """Lengths such as `45 a + 22 t`."""
    return " + ".join(f"{count:,} {letter}" for letter, count in row.lengths.items())


_NAMES: dict[str, Column[Measured]] = {
    column.header: column
    for column in (
        Column[Measured]("pattern", lambda item: item.row.pattern, names=True),
        Column[Measured]("contender", lambda item: item.row.contender, names=True),
        Column[Measured]("part", lambda item: item.row.part, names=True),
        Column[Measured]("stage", lambda item: item.row.part, names=True, blank="whole"),
        Column[Measured]("backend", lambda item: item.row.backend, names=True),
        Column[Measured]("precision", lambda item: item.row.precision, names=True),
        Column[Measured]("threads", lambda item: str(item.row.threads), names=True),
        Column[Measured]("frames", lambda item: frames(item.row), names=True),
        Column[Measured]("batch", lambda item: str(item.row.batch), names=True),
        Column[Measured]("streams", lambda item: str(item.row.streams), names=True),
        Column[Measured]("samples", lambda item: f"{item.summary.count:,}", names=True),
        Column[Measured]("scenario", lambda item: item.row.scenario, names=True),
    )
}


def _interval(item: Measured, scale: Scale) -> str:
    interval = item.summary.interval
    return span(scale.number(interval.low), scale.number(interval.high)) if interval else ""


def _tail(percent: int, scale: Scale) -> Column[Measured]:
    fewest = 100 / (100 - percent)

    def cell(item: Measured) -> str:
        enough = item.summary.count >= fewest
        return scale.number(item.summary.percentile(percent)) if enough else ""

    return Column(f"p{percent} {scale.unit}", cell)


def _of_bound(item: Measured) -> str:
    return "" if item.of_bound is None else f"{number(item.of_bound)}{TIMES}"


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


def _share(accuracy: Accuracy | None, name: str) -> str:
    return f"{getattr(accuracy, name):.3f}" if accuracy else ""
