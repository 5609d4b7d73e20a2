"""Lines over length, batch or streams: one plot a pattern, one line a contender."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ifmmin.benchmarks.record import OURS, Row
from ifmmin.benchmarks.report.measured import Measured, cost
from ifmmin.benchmarks.report.plots.figure import WIDTH, Figure
from ifmmin.benchmarks.report.plots.lines import Line, Panel, draw_lines
from ifmmin.benchmarks.report.scale import Scale
from ifmmin.runtime.modality import Modality

_MOST = 7
"""Lines in one plot; of more the slowest stay in the table."""


@dataclass(frozen=True)
class Across:
    """What a line goes over."""

    name: str
    value: Callable[[Row], int]


def line_figure(scenario: str) -> Callable[[Sequence[Measured], Mapping[str, str]], Figure | None]:
    """A drawer of the plots of a scenario."""
    title, caption = _TITLES[scenario]

    def draw(items: Sequence[Measured], colours: Mapping[str, str]) -> Figure | None:
        rates = [item for item in items if item.row.unit == "1/s"]
        panels = [
            panel
            for members in _split(rates or [item for item in items if item.row.unit == "s"])
            if (panel := _panel(members, _across(scenario, members), colours)) is not None
        ]
        if not panels:
            return None
        panels = _alike(panels)
        drawn = tuple(draw_lines(p, WIDTH, f"{title}, {p.title}".rstrip(", ")) for p in panels)
        bounds = any(line.dashed for panel in panels for line in panel.lines)
        return Figure(f"{caption}{_BOUND if bounds else ''}", drawn)

    return draw


_TITLES = {
    "length": ("Latency against length", "Median of one call."),
    "throughput": ("Throughput against batch", "Median of utterances a second."),
    "stream": ("Update of a stream against the length of its past", "Median of one update."),
    "streams": ("Update of a stream against the number of streams", "Median of one update."),
}
_BOUND = " Dashed: the bound, the best that this device could do."


def _split(items: Sequence[Measured]) -> list[list[Measured]]:
    """Items of one plot: same pattern and part."""
    found: dict[tuple[str, str], list[Measured]] = {}
    for item in items:
        found.setdefault((item.row.pattern, item.row.part), []).append(item)
    return list(found.values())


def _across(scenario: str, items: Sequence[Measured]) -> Across:
    if scenario == "throughput":
        return Across("utterances per call", lambda row: row.batch)
    if scenario == "streams":
        return Across("streams", lambda row: row.streams)
    seen: dict[str, set[int]] = {}
    for item in items:
        for letter, count in item.row.lengths.items():
            seen.setdefault(letter, set()).add(count)
    varying = [letter for letter, counts in seen.items() if len(counts) > 1]
    past = " that came before" if scenario == "stream" else ""
    if len(varying) == 1:
        word = Modality.of(varying[0]).word
        return Across(f"{word} frames{past}", lambda row: row.lengths.get(varying[0], 0))
    return Across(f"frames in all{past}", lambda row: sum(row.lengths.values()))


def _panel(items: Sequence[Measured], across: Across, colours: Mapping[str, str]) -> Panel | None:
    """Lines of at least two points; None where there is none."""
    ways: dict[tuple[str, str, str, int], list[Measured]] = {}
    for item in items:
        row = item.row
        way = (row.contender, row.precision, row.backend, row.threads)
        ways.setdefault(way, []).append(item)
    best: dict[tuple[str, str], list[Measured]] = {}
    for (contender, precision, *_), members in ways.items():
        members.sort(key=lambda item: across.value(item.row))
        known = best.get((contender, precision))
        if len(members) > 1 and (known is None or cost(members[-1]) < cost(known[-1])):
            best[contender, precision] = members
    if not best:
        return None
    lines = [
        Line(
            label=_label(way, list(best)),
            colour=colours[way[0]],
            points=tuple((across.value(i.row), i.summary.p50) for i in members),
        )
        for way, members in sorted(best.items(), key=lambda pair: cost(pair[1][-1]))[:_MOST]
    ]
    lines += _bound(best, across, colours)
    values = tuple(y for line in lines for _, y in line.points)
    first = items[0].row
    title = " ".join(word for word in (first.pattern, first.part) if word)
    return Panel(title, across.name, tuple(lines), Scale.of(first.unit, values), values)


def _alike(panels: Sequence[Panel]) -> list[Panel]:
    """The panels with one axis for all, so that they can be compared by eye."""
    values = tuple(value for panel in panels for value in panel.values)
    widest = max(panels, key=lambda panel: max(panel.values)).scale
    return [replace(panel, values=values, scale=widest) for panel in panels]


def _label(way: tuple[str, str], ways: Sequence[tuple[str, str]]) -> str:
    """The contender, with the precision where it has several."""
    several = sum(contender == way[0] for contender, _ in ways) > 1
    return f"{way[0]} {way[1]}".rstrip() if several else way[0]


def _bound(
    best: Mapping[tuple[str, str], Sequence[Measured]],
    across: Across,
    colours: Mapping[str, str],
) -> list[Line]:
    """The bound of our first line that has one everywhere."""
    for (contender, _), members in best.items():
        points = tuple((across.value(i.row), i.row.bound) for i in members if i.row.bound)
        if contender == OURS and len(points) == len(members):
            return [Line("bound", colours[contender], points, dashed=True)]
    return []
