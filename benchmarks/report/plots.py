"""Plots of a report: figures by matplotlib, as inline SVG that takes its colours from the page.

Lengths are CSS pixels: a figure has 72 dots an inch, so that a point of matplotlib is a pixel of
the page. Room for text is reckoned by DejaVu Sans, the widest of the usual fonts of systems.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from importlib.resources import files
from io import StringIO
from itertools import pairwise
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TypeVar, cast

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import text_to_path
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.transforms import IdentityTransform

from ifmmin.runtime.modality import Modality

from ..record import CONTROL, OURS, REFERENCE, Report
from ..scenarios.worker_memory import RSS
from .sections import KINDS, stage_and_measure
from .summary import Measured, Scale, cost, fastest, measure

WIDTH = 328
"""Of every plot: what a phone has beside its margins, and half of a printed page."""
_CUT, _TAIL, _MOST, _WIDE = 2.5, 1.35, 7, 20.0
"""A bar this many times as long as all shorter ones is cut; room for tails, by the longest bar;
lines in a plot, the slower are in the table; largest by smallest value of an axis of ratios."""
_SHADES = (1.0, 0.72, 0.48, 0.28, 0.14)
_SHAPES = {"fp32": "o", "int8": "s", "fp16": "^", "int8-qdq": "D"}
_KNOWN = (OURS, "monolith", "eager", "openvino", "compile", "torchscript", CONTROL)
"""Contenders that have the same colour in every report, in the order of the style sheet."""

_SHEET = files("ifmmin.benchmarks.report").joinpath("style.css").read_text("utf-8")
_INK = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", _SHEET.partition("@media")[0]))
"""Colours of the page by day. The SVG has their names, so that night and paper have their own."""
_NAMES = {colour: f"var(--{name})" for name, colour in _INK.items()}
_STYLE: dict[str, Any] = {
    "figure.dpi": 72, "font.family": "DejaVu Sans", "font.size": 12, "text.color": _INK["ink"],
    "text.parse_math": False, "svg.fonttype": "none", "axes.axisbelow": True,
    "axes.labelcolor": _INK["muted"], "grid.color": _INK["rule"], "grid.linewidth": 1,
    "xtick.color": _INK["rule"], "xtick.labelcolor": _INK["muted"], "xtick.major.size": 4,
    "ytick.labelcolor": _INK["muted"], "ytick.major.size": 0, "ytick.major.pad": 6,
    "lines.markeredgecolor": _INK["paper"], "lines.solid_capstyle": "butt",
    "legend.frameon": False, "legend.borderpad": 0, "legend.borderaxespad": 0,
    "legend.columnspacing": 1.2, "legend.handlelength": 0.8, "legend.handletextpad": 0.4,
    "legend.labelcolor": _INK["muted"],
}  # fmt: skip

Colours = Mapping[str, str]
Drawn = tuple[str, list[Axes]]
"""What is to be said of plots, and these."""
Points = list[tuple[float, float]]
Range = tuple[float, float, Literal["linear", "log"]]
Key = TypeVar("Key")
_pattern: Callable[[Measured], str] = attrgetter("row.pattern")
_way: Callable[[Measured], tuple[str, str]] = attrgetter("row.contender", "row.precision")
_run = attrgetter("row.pattern", "row.backend", "row.threads", "row.contender", "row.precision")


@dataclass(frozen=True)
class Drawing:
    """Plots that stand side by side, with what is to be said of them."""

    caption: str
    plots: dict[str, Axes]
    """By what they show, for those who do not see it: no two of a report have the same title."""

    def html(self) -> str:
        """A figure of the page."""
        plots = "".join(_svg(title, axes) for title, axes in self.plots.items())
        caption = f"<figcaption>{escape(self.caption)}</figcaption>"
        return f'<figure><div class="plots">{plots}</div>{caption}</figure>'


def draw_plots(report: Report, section: str) -> list[Drawing]:
    """Drawings of the section of this name; the A/A control is in the tables alone."""
    items = [item for item in measure(report, section) if item.row.contender != CONTROL]
    used = {row.contender for row in report.rows}
    colours = {name: _INK[f"c{place}"] for place, name in enumerate(_KNOWN) if name in used}
    inks = [_INK[f"c{place}"] for place in (7, 8, 9, 1, 3, 4, 2, 5)]
    free = [ink for ink in inks if ink not in colours.values()] or inks
    for place, name in enumerate(sorted(used - {*_KNOWN, REFERENCE})):
        colours[name] = free[place % len(free)]
    title = next((kind.title for kind in KINDS if kind.name == section), section)
    with matplotlib.style.context(["default", _STYLE]):
        drawn = [draw(items, colours) for draw in _DRAWERS.get(section, ())]
    return [
        Drawing(caption, {f"{title}: {axes.get_label()}": axes for axes in plots})
        for caption, plots in drawn if plots
    ]  # fmt: skip


def _svg(title: str, axes: Axes) -> str:
    """An element whose text is text, and whose ids no figure of another title has."""
    written, figure = StringIO(), cast(Figure, axes.figure)
    with matplotlib.style.context(["default", _STYLE, {"svg.hashsalt": title}]):
        figure.savefig(written, format="svg")
    # What stands before is the header of a file, with its date, and a style for the whole page.
    body = written.getvalue().partition("</style>")[2].partition("</defs>")[2]
    body = re.sub(r"<clipPath.*?</clipPath>", "", body, flags=re.DOTALL)
    body = re.sub(r">\s+<", "><", re.sub(r"<[^>]+>", _themed, body)).strip()
    size = 'viewBox="0 0 {0} {1}" width="{0}" height="{1}"'.format(WIDTH, round(figure.bbox.height))
    return f'<svg {size} role="img"><title>{escape(title)}</title>{body}'


def _themed(tag: re.Match[str]) -> str:
    """The tag with the page's colours, short numbers, and only ids that something refers to."""
    idle = r' (?:id="(?!m[0-9a-f]{10}")|clip-path="|transform="rotate\(-0 )[^"]*"'
    lean = re.sub(r"(\.\d\d)\d+", r"\1", re.sub(r"\s+", " ", re.sub(idle, "", tag[0])))
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: _NAMES.get(found[0], found[0]), lean)


def _latency(items: Sequence[Measured], colours: Colours) -> Drawn:
    mark = "The upright mark is the bound, the least that this device could take. "
    caption = (
        "Median of one call; the thin line goes on to the 99th percentile, beyond the plot where "
        f"it has no stop. {mark if any(item.row.bound for item in items) else ''}"
        "Of each contender and precision the fastest backend and number of threads."
    )
    return caption, _bars(_whole(items), _pattern, colours)


def _cold_start(items: Sequence[Measured], colours: Colours) -> Drawn:
    caption = "Median from the start of the process to its first answer; parts by their medians."
    return caption, _bars(_whole(items), _pattern, colours, [i for i in items if i.row.part])


def _whole(items: Sequence[Measured]) -> list[Measured]:
    timed = [item for item in items if item.row.unit == "s" and not item.row.part]
    return fastest(timed, "pattern", "contender", "precision")


def _memory(items: Sequence[Measured], colours: Colours) -> Drawn:
    def stage(item: Measured) -> str:
        name, streams = stage_and_measure(item.row.part)[0], item.row.streams
        return f"{streams} {name}" if streams > 1 else name

    resident = [item for item in items if stage_and_measure(item.row.part)[1] == RSS]
    best = fastest(resident, "part", "streams", "contender", "precision")
    return "Median of resident memory (RSS).", _bars(best, stage, colours)


def _bars(
    items: Sequence[Measured], group: Callable[[Measured], str], colours: Colours,
    parts: Sequence[Measured] = (),
) -> list[Axes]:  # fmt: skip
    """A plot a group, all on one scale, the best on top. parts: what bars consist of."""
    if not items:
        return []
    medians, labels = sorted(item.summary.p50 for item in items), _labels(items)
    scale, tails = Scale.of(items[0].row.unit, medians), items[0].row.unit == "s" and not parts
    left = max(map(_width, labels.values())) + 6
    right = WIDTH - max(_width(scale.text(median)) for median in medians) - 6
    # Bars far beyond all others are cut, or these could not be told apart.
    pairs = pairwise(medians[len(medians) // 2 :])
    limit = next((shorter for shorter, longer in pairs if longer > _CUT * shorter), medians[-1])
    end = max([limit, *(min(item.summary.p99, _TAIL * limit) for item in items if tails)])
    found = {(_run(item), item.row.part): item.summary.p50 for item in parts}
    names = list(dict.fromkeys(item.row.part for item in parts))
    shades = dict(zip(names, _SHADES, strict=False))
    key = {name: Patch(fc=to_rgba(_INK["muted"], shade)) for name, shade in shades.items()}
    plots = []
    for title, members in _grouped(items, group).items():
        members.sort(key=cost)
        ys = {float(y): labels[_way(item)] for y, item in enumerate(members)}
        up: Range = (len(members) - 0.5, -0.5, "linear")
        axes = _axes(title, 20 * len(ys), (left, right), (0, end, "linear"), up, {}, ys, "", key)
        for y, item in enumerate(members):
            shares = [found.get((_run(item), name), 0.0) for name in names]
            x = _bar(axes, y, item, colours[item.row.contender], shares, tails)
            text = scale.text(item.summary.p50)
            axes.annotate(text, (x, y), (6, 0), textcoords="offset points", va="center_baseline")
        plots.append(axes)
    return plots


def _bar(
    axes: Axes, y: int, item: Measured, ink: str, shares: Sequence[float], tails: bool
) -> float:  # fmt: skip
    """One bar with its tail and its bound; returns where they end."""
    median, end = item.summary.p50, axes.get_xlim()[1]
    stop, pixel, start = min(median, end), end / axes.bbox.width, 0.0
    edge = {"ec": _INK["paper"], "lw": 0.75 * any(shares)}
    for share, shade in zip(shares if any(shares) else [1.0], _SHADES, strict=False):
        length = stop * share / (sum(shares) or 1.0)
        axes.barh(y, length, 0.7, start, fc=to_rgba(ink, shade), **edge)
        start += length
    if median > end:
        axes.plot([stop - 16 * pixel, stop - 11 * pixel], [y + 0.4, y - 0.4], c=_INK["paper"], lw=3)
    elif tails and item.summary.p99 > median:
        stop = min(item.summary.p99, end)
        cap: dict[str, Any] = {"marker": "|" if stop < end else "", "ms": 6, "mec": ink, "mew": 1.5}
        axes.plot([median, stop], [y, y], c=ink, alpha=0.6, lw=1.5, markevery=[1], **cap)
    if item.row.bound is not None:
        axes.vlines(item.row.bound, y - 0.42, y + 0.42, colors=_INK["ink"], lw=2)
    return stop


class _Line(NamedTuple):
    label: str
    colour: str
    points: Points
    style: Mapping[str, Any]


def _lines(caption: str, items: Sequence[Measured], colours: Colours) -> Drawn:
    """A plot a pattern and part, all on one scale; a line a contender and precision."""
    rates = [item for item in items if item.row.unit == "1/s"]
    timed = rates or [item for item in items if item.row.unit == "s"]
    panels = {}
    for title, members in _grouped(timed, lambda i: f"{i.row.pattern} {i.row.part}").items():
        name, over = _across(members)
        if lines := _best_lines(members, over, colours):
            panels[title.strip()] = name, lines
    drawn = [line for _, lines in panels.values() for line in lines]
    if not drawn:
        return "", []
    up = _range([y for line in drawn for _, y in line.points], zero=True)
    scale = Scale.of(timed[0].row.unit, up[:2])
    ys = {y: scale.number(y) for y in _ticks(*up)}
    sides = max(map(_width, ys.values())) + 8, WIDTH - max(_width(i.label) for i in drawn) - 12
    plots = []
    for title, (name, lines) in panels.items():
        xs = {x: f"{x:,.0f}" for x in sorted({x for line in lines for x, _ in line.points})}
        axes = _axes(f"{title}, {scale.unit}", 160, sides, _range([*xs]), up, xs, ys, name)
        _draw_lines(axes, lines, sides[1] + 12)
        plots.append(axes)
    if any(line.label == "bound" for line in drawn):
        caption += " Dashed: the bound, the best that this device could do."
    return caption, plots


def _across(items: Sequence[Measured]) -> tuple[str, Callable[[Measured], int]]:
    """What varies, and how much of it an item has."""
    known: dict[str, Callable[[Measured], int]] = {
        "utterances per call": lambda item: item.row.batch, "streams": lambda item: item.row.streams
    }  # fmt: skip
    for modality in Modality:
        known[f"{modality.word} frames"] = partial(_frames, str(modality))
    varying = [name for name, value in known.items() if len(set(map(value, items))) > 1]
    known["frames in all"] = lambda item: sum(item.row.lengths.values())
    name = varying[0] if len(varying) == 1 else "frames in all"
    return name, known[name]


def _frames(letter: str, item: Measured) -> int:
    return item.row.lengths.get(letter, 0)


def _best_lines(
    items: Sequence[Measured], over: Callable[[Measured], int], colours: Colours
) -> list[_Line]:  # fmt: skip
    """The fastest of each contender and precision at every point, and our bound."""
    best = {(_way(item), over(item)): item for item in sorted(items, key=cost, reverse=True)}
    found = _grouped(sorted(best.values(), key=over), _way)
    runs = sorted((r for r in found.values() if len(r) > 1), key=lambda run: cost(run[-1]))
    labels, lines = _labels([run[0] for run in runs]), []
    for run in runs[:_MOST]:
        points: Points = [(over(item), item.summary.p50) for item in run]
        style = {"lw": 2, "marker": "o", "ms": 5.5}
        lines.append(_Line(labels[_way(run[0])], colours[run[0].row.contender], points, style))
    for run in runs:
        points = [(over(item), item.row.bound) for item in run if item.row.bound]
        if run[0].row.contender == OURS and len(points) == len(run):
            dashed = {"lw": 1.25, "ls": (0, (2.4, 2.4))}
            return [*lines, _Line("bound", colours[OURS], points, dashed)]
    return lines


def _accuracy(items: Sequence[Measured], colours: Colours) -> Drawn:
    """A mark a pattern and precision of ours, those of a pattern tied and named once."""
    ours = [item for item in _whole(items) if item.row.contender == OURS]
    marks = [(i.summary.p50, i.row.accuracy.ua, i.row) for i in ours if i.row.accuracy]
    if len(marks) < 2:
        return "", []
    kinds = [kind for kind in _SHAPES if kind in {row.precision for *_, row in marks}]
    key = {k: Line2D([], [], ls="", marker=_SHAPES[k], c=_INK["muted"], ms=9) for k in kinds}
    over, up = _range([x for x, *_ in marks]), _range([y for _, y, _ in marks])
    scale = Scale.of("s", over[:2])
    xs = {x: scale.number(x) for x in _ticks(*over)}
    ys = {y: f"{100 * y:.3g} %" for y in _ticks(*up)}
    sides = max(map(_width, ys.values())) + 8, WIDTH - 40
    name = f"median of one call, {scale.unit}"
    axes = _axes("unweighted accuracy", 246, sides, over, up, xs, ys, name, key)
    ties: dict[str, Points] = {}
    for x, y, row in sorted(marks, key=lambda mark: mark[0]):
        ties.setdefault(row.pattern, []).append((x, y))
        axes.plot(x, y, _SHAPES.get(row.precision, "*"), c=colours[OURS], ms=9)
    style = {"lw": 1, "alpha": 0.45, "zorder": 1}
    _draw_lines(axes, [_Line(name, colours[OURS], tie, style) for name, tie in ties.items()])
    return f"Accuracy against latency of {OURS}; lines tie the precisions of a pattern.", [axes]


def _draw_lines(axes: Axes, lines: Sequence[_Line], column: float = 0.0) -> None:
    """Lines, their names right of them or in a column: apart, and tied to the ends by thin ones."""
    bottom, top = axes.bbox.y0 - 4, axes.bbox.y1 + 8
    ends = [axes.transData.transform(line.points[-1]) for line in lines]
    gap = min(14.0, (top - bottom) / max(1, len(ends) - 1))
    order = sorted(range(len(ends)), key=lambda index: -ends[index][1])
    levels, last, limit = [0.0] * len(ends), top + gap, bottom
    for index in order:
        last = levels[index] = min(ends[index][1], last - gap)
    for index in reversed(order):
        levels[index] = max(levels[index], limit)
        limit = levels[index] + gap
    pixels: dict[str, Any] = {"transform": IdentityTransform()}
    for line, (x, y), level in zip(lines, ends, levels, strict=True):
        axes.plot(*zip(*line.points, strict=True), c=line.colour, **line.style)
        left = column or x + 9
        if column or abs(level - y) > 4:
            axes.plot([x + 4, left - 3], [y, level], c=line.colour, lw=1, alpha=0.45, **pixels)
        axes.text(left, level, line.label, va="center_baseline", **pixels)


def _axes(
    title: str, height: float, sides: tuple[float, float], over: Range, up: Range,
    xs: Mapping[float, str], ys: Mapping[float, str], name: str = "",
    key: Mapping[str, Artist] | None = None,
) -> Axes:  # fmt: skip
    """Axes from side to side of a new figure, under their title and a key. xs, ys: values to mark,
    by words; of x as far as there is room, the last kept. name: what x is."""
    bottom, top = (38, 28) if xs else (0, 18)
    high = height + bottom + top + (22 if key else 0)
    figure = Figure((WIDTH / 72, high / 72), frameon=False)
    figure.text(0, 1 - 12 / high, title, weight="bold")
    if key:
        at: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, 1 - 22 / high)}
        figure.legend(key.values(), key.keys(), ncols=len(key), **at)
    box = (sides[0] / WIDTH, bottom / high, (sides[1] - sides[0]) / WIDTH, height / high)
    axes = figure.add_axes(box, frameon=False, label=title)
    axes.set(xscale=over[2], xlim=over[:2], yscale=up[2], ylim=up[:2], xticks=[])
    axes.set_yticks([*ys], [*ys.values()])
    if xs:
        places, kept = {x: axes.transData.transform((x, up[1]))[0] for x in xs}, [max(xs)]
        for x in sorted(xs, reverse=True):
            if places[kept[-1]] - places[x] >= max(map(_width, xs.values())) + 8:
                kept.append(x)
        axes.set_xticks(kept, [xs[x] for x in kept])
        axes.set_xlabel(name, loc="left", labelpad=5)
        axes.grid(axis="y")
    axes.minorticks_off()
    return axes


def _range(values: Sequence[float], zero: bool = False) -> Range:
    """Of an axis: of ratios where values differ much, else straight, from zero where asked."""
    low, high = min(values), max(values)
    if low > 0 and high / low > _WIDE:
        return low / 1.15, high * 1.15, "log"
    margin = 0.08 * (high - low) or 0.05 * high or 1.0
    return 0.0 if zero else low - margin, 1.05 * high if zero else high + margin, "linear"


def _ticks(low: float, high: float, kind: str) -> list[float]:
    """Some round values within low..high."""
    locator = LogLocator(subs=(1, 3)) if kind == "log" else MaxNLocator(5, steps=[1, 2, 5, 10])
    return [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]


def _labels(items: Sequence[Measured]) -> dict[tuple[str, str], str]:
    """Names of contenders and precisions: the precision where a contender has several."""
    run_configs = dict.fromkeys(map(_way, items))
    count = Counter(contender for contender, _ in run_configs)
    return {
        config: " ".join(config).rstrip() if count[config[0]] > 1 else config[0]
        for config in run_configs
    }


def _grouped(
    items: Iterable[Measured], key: Callable[[Measured], Key]
) -> dict[Key, list[Measured]]:
    found: dict[Key, list[Measured]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def _width(text: str) -> float:
    font = FontProperties(family="DejaVu Sans", size=12)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


_DRAWERS: dict[str, tuple[Callable[[Sequence[Measured], Colours], Drawn], ...]] = {
    "latency": (_latency, _accuracy), "length": (partial(_lines, "Median of one call."),),
    "throughput": (partial(_lines, "Median of utterances a second."),),
    "stream": (partial(_lines, "Median of one update, by the frames that came before."),),
    "streams": (partial(_lines, "Median of one update."),), "cold-start": (_cold_start,),
    "memory": (_memory,),
}  # fmt: skip
