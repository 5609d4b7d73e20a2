"""Which plots a section has, and of which rows; the tables have them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ifmmin.benchmarks.record import OURS, TWIN, YARDSTICK, Report
from ifmmin.benchmarks.report.figure_lines import line_figure
from ifmmin.benchmarks.report.measured import Measured, cost, fastest, measure
from ifmmin.benchmarks.report.memory_table import stage_and_measure
from ifmmin.benchmarks.report.palette import palette
from ifmmin.benchmarks.report.plots.bars import Bar, Group, draw_bars
from ifmmin.benchmarks.report.plots.figure import WIDTH, Figure
from ifmmin.benchmarks.report.plots.scatter import Mark, draw_scatter
from ifmmin.benchmarks.report.scale import Scale
from ifmmin.benchmarks.scenarios.resident import RSS
from ifmmin.runtime.manifest import PRECISIONS

_SCATTER_HEIGHT = 340

Colours = dict[str, str]


def figures_of_section(report: Report, name: str) -> list[Figure]:
    """Plots of the section of this name; the twin is in the tables alone."""
    items = [item for item in measure(report, name) if item.row.contender != TWIN]
    colours = palette(row.contender for row in report.rows if row.contender != YARDSTICK)
    drawn = [draw(items, colours) for draw in _DRAWERS.get(name, ())]
    return [figure for figure in drawn if figure is not None]


def _latency(items: Sequence[Measured], colours: Colours) -> Figure | None:
    """Bars by pattern: of every contender and precision the fastest way."""
    timed = [item for item in items if item.row.unit == "s" and not item.row.part]
    best = sorted(fastest(timed, "pattern", "contender", "precision"), key=cost)
    if not best:
        return None
    scale = Scale.of("s", [item.summary.p50 for item in best])
    name = _namer(best)
    groups = [
        Group(pattern, tuple(_bar(item, name(item), scale, colours) for item in members))
        for pattern, members in _by_pattern(best, timed)
    ]
    words = [
        "Median of one call; the thin line goes on to the 99th percentile, beyond the plot where "
        "it has no stop."
    ]
    if any(item.row.bound for item in best):
        words.append("The upright mark is the bound, the least that this device could take.")
    words.append("Of each contender and precision the fastest backend and number of threads.")
    return _bars_figure(groups, " ".join(words), "Latency by pattern")


def _memory(items: Sequence[Measured], colours: Colours) -> Figure | None:
    """What a process holds at each stage, by the measure that every tool shows."""
    resident = [item for item in items if stage_and_measure(item.row.part)[1] == RSS]
    best = sorted(fastest(resident, "part", "streams", "contender", "precision"), key=cost)
    if not best:
        return None
    scale = Scale.of("bytes", [item.summary.p50 for item in best])
    name = _namer(best)
    groups: dict[str, list[Bar]] = {stage: [] for stage in dict.fromkeys(map(_stage, resident))}
    for item in best:
        groups[_stage(item)].append(_bar(item, name(item), scale, colours))
    bars = [Group(stage, tuple(found)) for stage, found in groups.items()]
    return _bars_figure(bars, "Median of resident memory (RSS).", "Memory by contender")


def _stage(item: Measured) -> str:
    stage, _ = stage_and_measure(item.row.part)
    return f"{item.row.streams} {stage}" if item.row.streams > 1 else stage


def _cold_start(items: Sequence[Measured], colours: Colours) -> Figure | None:
    """A bar per contender that consists of its parts; one whose parts are not known is whole."""
    whole = [item for item in items if not item.row.part and item.row.unit == "s"]
    best = sorted(fastest(whole, "pattern", "contender", "precision"), key=cost)
    if not best:
        return None
    scale = Scale.of("s", [item.summary.p50 for item in best])
    name = _namer(best)
    parts = list(dict.fromkeys(item.row.part for item in items if item.row.part))
    found = {(_way(item), item.row.part): item.summary.p50 for item in items}

    def bar(item: Measured) -> Bar:
        segments = tuple(found.get((_way(item), part), 0.0) for part in parts)
        plain = _bar(item, name(item), scale, colours)
        return replace(plain, reach=None, segments=segments if any(segments) else ())

    groups = [
        Group(pattern, tuple(map(bar, members))) for pattern, members in _by_pattern(best, whole)
    ]
    caption = "Median from the start of the process to its first answer; parts by their medians."
    return _bars_figure(groups, caption, "Cold start by contender", parts)


def _accuracy(items: Sequence[Measured], colours: Colours) -> Figure | None:
    """A mark for every pattern and precision of ours."""
    ours = [
        item for item in items
        if item.row.contender == OURS and item.row.accuracy and item.row.unit == "s"
    ]  # fmt: skip
    best = fastest(ours, "pattern", "precision")
    best.sort(key=lambda item: (*PRECISIONS, item.row.precision).index(item.row.precision))
    if len(best) < 2:
        return None
    marks = [
        Mark(i.row.pattern, i.row.precision, i.summary.p50, i.row.accuracy.ua, colours[OURS])
        for i in best
        if i.row.accuracy
    ]
    scale = Scale.of("s", [mark.x for mark in marks])

    what = ("Accuracy against latency", "median of one call", "unweighted accuracy")
    plot = draw_scatter(marks, WIDTH, _SCATTER_HEIGHT, scale, *what)
    caption = f"Accuracy against latency of {OURS}; lines tie the precisions of a pattern."
    return Figure(caption, (plot,))


def _bars_figure(
    groups: Sequence[Group], caption: str, label: str, parts: Sequence[str] = ()
) -> Figure:
    return Figure(caption, draw_bars(groups, WIDTH, label, parts))


def _bar(item: Measured, name: str, scale: Scale, colours: Colours) -> Bar:
    p50, reach = item.summary.p50, item.summary.p99 if item.row.unit == "s" else None
    colour = colours[item.row.contender]
    return Bar(name, p50, scale.text(p50), colour, reach=reach, bound=item.row.bound)


def _namer(items: Sequence[Measured]) -> Callable[[Measured], str]:
    """Names items by their contenders, with the precision where one of them has several."""
    ways = {(item.row.contender, item.row.precision) for item in items}

    def name(item: Measured) -> str:
        row = item.row
        several = sum(contender == row.contender for contender, _ in ways) > 1
        return f"{row.contender} {row.precision}".rstrip() if several else row.contender

    return name


def _by_pattern(
    items: Sequence[Measured], ordered: Sequence[Measured]
) -> list[tuple[str, list[Measured]]]:
    """Items by pattern, patterns in the order of `ordered`."""
    patterns = dict.fromkeys(item.row.pattern for item in ordered)
    return [(p, [item for item in items if item.row.pattern == p]) for p in patterns]


def _way(item: Measured) -> tuple[str, ...]:
    """What the parts of one start share."""
    row = item.row
    return (row.pattern, row.contender, row.backend, row.precision, str(row.threads))


_DRAWERS: dict[str, tuple[Callable[[Sequence[Measured], Colours], Figure | None], ...]] = {
    "latency": (_latency, _accuracy),
    "length": (line_figure("length"),),
    "throughput": (line_figure("throughput"),),
    "stream": (line_figure("stream"),),
    "streams": (line_figure("streams"),),
    "cold-start": (_cold_start,),
    "memory": (_memory,),
}
