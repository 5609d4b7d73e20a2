"""Lines over a quantity, each named at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ifmmin.benchmarks.report.plots.axis import Axis, axis_of, exact_ticks
from ifmmin.benchmarks.report.plots.canvas import LINE, TEXT, Canvas, text_width
from ifmmin.benchmarks.report.plots.place import spread_out
from ifmmin.benchmarks.report.scale import Scale, number

_HEIGHT = 226
_TOP = LINE + 12
_BOTTOM = 2 * LINE + 6


@dataclass(frozen=True)
class Line:
    """One line: a value at each x, in ascending order of x."""

    label: str
    colour: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False
    """A limit and no measurement: drawn without marks."""


@dataclass(frozen=True)
class Panel:
    """What one plot shows."""

    title: str
    across: str
    """What x is, such as `acoustic frames`."""
    lines: tuple[Line, ...]
    scale: Scale
    """Unit of the values."""
    values: tuple[float, ...]
    """What the axis has room for: those of all panels that stand side by side."""


def draw_lines(panel: Panel, width: float, label: str) -> str:
    """An SVG of one panel. label: what it shows."""
    canvas = Canvas(width, _HEIGHT)
    xs = [x for line in panel.lines for x, _ in line.points]
    down = axis_of(panel.values, _HEIGHT - _BOTTOM, _TOP, from_zero=True)
    ticks = down.ticks(6 if down.logarithmic else 5)
    left = max(text_width(_tick(panel, tick)) for tick in ticks) + 8
    right = width - max(text_width(line.label) for line in panel.lines) - 12
    across = axis_of(xs, left + 6, right, from_zero=False, room=1.0)
    canvas.text(0, TEXT, f"{panel.title}, {panel.scale.unit}".lstrip(", "), kind="b")
    for tick in ticks:
        y = down.at(tick)
        canvas.add("path", d=f"M{left:.1f} {y:.1f}H{right:.1f}", kind="grid")
        canvas.text(left - 6, y + 0.35 * TEXT, _tick(panel, tick), "end", "n m")
    _draw_across(canvas, panel, across, xs)
    for line in panel.lines:
        _draw_line(canvas, line, across, down)
    _draw_names(canvas, panel.lines, across, down)
    return canvas.svg(label)


def _tick(panel: Panel, value: float) -> str:
    return number(value / panel.scale.factor)


def _draw_across(canvas: Canvas, panel: Panel, axis: Axis, xs: Sequence[float]) -> None:
    """The measured values of x below the plot, and what they are."""
    base = _HEIGHT - _BOTTOM
    gap = max(text_width(f"{x:,.0f}") for x in xs) + 8
    for x in exact_ticks(axis, xs, gap):
        canvas.add("path", d=f"M{axis.at(x):.1f} {base:.1f}v4", kind="grid")
        canvas.text(axis.at(x), base + LINE + 1, f"{x:,.0f}", "middle", "n m")
    canvas.text(axis.start, _HEIGHT - 4, panel.across, kind="m")


def _draw_line(canvas: Canvas, line: Line, across: Axis, down: Axis) -> None:
    places = [(across.at(x), down.at(y)) for x, y in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    canvas.add("path", d=path, kind=f"{'limit' if line.dashed else 'line'} {line.colour}")
    if not line.dashed:
        for x, y in places:
            canvas.add("circle", cx=x, cy=y, r=2.75, kind=f"dot {line.colour}")


def _draw_names(canvas: Canvas, lines: Sequence[Line], across: Axis, down: Axis) -> None:
    """A name right of each line's end; names that would meet move apart, tied by a thin line."""
    ends = [(across.at(line.points[-1][0]), down.at(line.points[-1][1])) for line in lines]
    heights = spread_out([y for _, y in ends], LINE - 1, _TOP - 8, _HEIGHT - _BOTTOM + 4)
    x = across.end + 12
    for line, (end, y), height in zip(lines, ends, heights, strict=True):
        tie = f"M{end + 4:.1f} {y:.1f}L{x - 3:.1f} {height:.1f}"
        canvas.add("path", d=tie, kind=f"tie {line.colour}")
        canvas.text(x, height + 0.35 * TEXT, line.label)
