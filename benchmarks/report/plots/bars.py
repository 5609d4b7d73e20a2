"""Horizontal bars in groups, in the order given, each with its number at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ifmmin.benchmarks.report.plots.canvas import LINE, TEXT, Canvas, text_width

_THICK, _PITCH = 14, 20
_GAP = 6
_CUT = 2.5
"""A bar this many times as long as all shorter ones is cut, or these could not be told apart."""
_TAIL = 1.35
"""Room for tails, by the longest bar."""


@dataclass(frozen=True)
class Bar:
    """One bar. Values share a unit."""

    label: str
    value: float
    text: str
    """The number to write at its end."""
    colour: str
    """Class that names a colour."""
    reach: float | None = None
    """Where a thin line ends that goes on from the bar, such as the 99th percentile."""
    bound: float | None = None
    """Where a mark stands."""
    segments: tuple[float, ...] = ()
    """Parts that the bar consists of; empty for one piece."""


@dataclass(frozen=True)
class Group:
    """Bars under one heading."""

    title: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class _Frame:
    """Where bars begin and end, and pixels per value; the same for all groups."""

    left: float
    right: float
    scale: float


def draw_bars(
    groups: Sequence[Group], width: float, label: str, parts: Sequence[str] = ()
) -> tuple[str, ...]:
    """An SVG per group, all on one scale.

    parts: what the segments of every bar are, for a key above them. label: what the plots show.
    """
    frame = _frame([bar for group in groups for bar in group.bars], width)
    return tuple(_draw_group(group, width, label, parts, frame) for group in groups)


def _frame(bars: Sequence[Bar], width: float) -> _Frame:
    left = max(text_width(bar.label) for bar in bars) + _GAP
    right = width - max(text_width(bar.text) for bar in bars) - _GAP
    limit = _limit([bar.value for bar in bars])
    # A tail may be as long as it likes; what lies beyond the plot is not drawn.
    longest = max(min(bar.reach or 0.0, _TAIL * limit) for bar in bars)
    return _Frame(left, right, (right - left) / max(limit, longest))


def _draw_group(group: Group, width: float, label: str, parts: Sequence[str], frame: _Frame) -> str:
    canvas = Canvas(width)
    top = _draw_key(canvas, parts) if parts else 0.0
    if group.title:
        canvas.text(0, top + TEXT, group.title, kind="b")
        top += LINE + 4
    for bar in group.bars:
        _draw_bar(canvas, bar, top, frame)
        top += _PITCH
    canvas.height = top
    return canvas.svg(f"{label}, {group.title}" if group.title else label)


def _limit(values: Sequence[float]) -> float:
    """The longest bar that is drawn whole: those far beyond all others are cut."""
    ordered = sorted(values)
    for shorter, longer in pairwise(ordered):
        if longer > _CUT * shorter and shorter >= ordered[len(ordered) // 2]:
            return shorter
    return ordered[-1] or 1.0


def _draw_bar(canvas: Canvas, bar: Bar, top: float, frame: _Frame) -> None:
    left, right, scale = frame.left, frame.right, frame.scale
    middle = top + _THICK / 2
    end = min(left + bar.value * scale, right)
    cut = left + bar.value * scale > right + 0.5
    canvas.text(left - _GAP, middle + 0.35 * TEXT, bar.label, "end", "m")
    position = left
    total = sum(bar.segments) or 1.0
    for index, segment in enumerate(bar.segments or (1.0,)):
        length = (end - left) * segment / total
        canvas.add(
            "rect", x=position, y=top, width=max(length - (0.75 if bar.segments else 0), 0.5),
            height=_THICK, kind=f"bar {bar.colour} s{index if bar.segments else 0}",
        )  # fmt: skip
        position += length
    if cut:
        slash = f"M{end - 16:.1f} {top + _THICK + 1:.1f}l5 {-_THICK - 2}"
        canvas.add("path", d=slash, kind="cut")
    reach = end
    if bar.reach is not None and bar.reach > bar.value and not cut:
        reach = min(left + bar.reach * scale, right)
        stop = "m0 -3v6" if left + bar.reach * scale <= right else ""
        tail = f"M{end:.1f} {middle:.1f}H{reach:.1f}{stop}"
        canvas.add("path", d=tail, kind=f"tail {bar.colour}")
    if bar.bound is not None:
        x = left + bar.bound * scale
        canvas.add("path", d=f"M{x:.1f} {top - 1.5:.1f}v{_THICK + 3}", kind="bound")
    canvas.text(reach + _GAP, middle + 0.35 * TEXT, bar.text, kind="n")


def _draw_key(canvas: Canvas, parts: Sequence[str]) -> float:
    """Swatches with words, in as many lines as they need; returns where the bars may begin."""
    x, y = 0.0, 0.0
    for index, part in enumerate(parts):
        needed = 14 + text_width(part) + 14
        if x and x + needed > canvas.width:
            x, y = 0.0, y + LINE + 2
        canvas.add("rect", x=x, y=y + 2, width=10, height=10, kind=f"bar key s{index}")
        canvas.text(x + 15, y + 11, part, kind="m")
        x += needed
    return y + LINE + 10
