"""Marks over two quantities: one shape a kind, a name for each family of marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ifmmin.benchmarks.report.plots.axis import Axis, axis_of
from ifmmin.benchmarks.report.plots.canvas import LINE, TEXT, Box, Canvas, text_width
from ifmmin.benchmarks.report.plots.place import find_spot
from ifmmin.benchmarks.report.scale import Scale, number

_RADIUS = 4.5
_BOTTOM = 2 * LINE + 6
_SHAPES = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",  # circle
    "M-4 -4h8v8h-8z",  # square
    "M0 -5l5 9h-10z",  # triangle
    "M0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",  # diamond
)

Place = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """One measurement."""

    family: str
    """Marks of a family are tied, and named once."""
    kind: str
    """Told by the shape."""
    x: float
    y: float
    colour: str


def draw_scatter(
    marks: Sequence[Mark], width: float, height: float, scale: Scale, label: str, across: str,
    up: str,
) -> str:  # fmt: skip
    """An SVG of marks. scale: unit of x; y is written in per cent; across, up: what they are."""
    canvas = Canvas(width, height)
    kinds = list(dict.fromkeys(mark.kind for mark in marks))
    canvas.text(0, TEXT, up, kind="b")
    top = _draw_key(canvas, kinds) + 8
    down = axis_of([mark.y for mark in marks], height - _BOTTOM, top, from_zero=False)
    ticks = down.ticks(6)
    left = max(text_width(_percent(tick)) for tick in ticks) + 8
    over = axis_of([mark.x for mark in marks], left + 8, width - 12, from_zero=False)
    for tick in ticks:
        canvas.add("path", d=f"M{left:.1f} {down.at(tick):.1f}H{width:.1f}", kind="grid")
        canvas.text(left - 6, down.at(tick) + 0.35 * TEXT, _percent(tick), "end", "n m")
    _draw_over(canvas, over, scale, across)
    _draw_marks(canvas, marks, kinds, over, down)
    return canvas.svg(label)


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _draw_over(canvas: Canvas, axis: Axis, scale: Scale, across: str) -> None:
    base = canvas.height - _BOTTOM
    reach = 0.0
    for tick in axis.ticks(7):
        word = number(tick / scale.factor)
        x, half = axis.at(tick), text_width(word) / 2
        canvas.add("path", d=f"M{x:.1f} {base:.1f}v4", kind="grid")
        if x - half >= reach and x + half <= canvas.width:
            canvas.text(x, base + LINE + 1, word, "middle", "n m")
            reach = x + half + 6
    canvas.text(axis.start, canvas.height - 4, f"{across}, {scale.unit}", kind="m")


def _draw_marks(
    canvas: Canvas, marks: Sequence[Mark], kinds: Sequence[str], over: Axis, down: Axis
) -> None:
    """Ties below marks, and a name for each family where there is room."""
    places = {mark: (over.at(mark.x), down.at(mark.y)) for mark in marks}
    families: dict[str, list[Mark]] = {}
    for mark in sorted(marks, key=lambda mark: mark.x):
        families.setdefault(mark.family, []).append(mark)
    taken: list[Box] = []
    for members in families.values():
        taken += _draw_tie(canvas, [places[mark] for mark in members], members[0].colour)
    for mark, place in places.items():
        _draw_shape(canvas, kinds.index(mark.kind), place, mark.colour)
        taken.append(_around(place, _RADIUS, _RADIUS))
    within = Box(over.start - 8, down.end - 8, canvas.width, down.start)
    for family, members in families.items():
        # The name stands at the slowest mark, else at any that has room.
        for mark in reversed(members):
            spot = find_spot(family, places[mark], taken, within, _RADIUS + 4)
            if spot is not None:
                taken.append(canvas.text(*spot[:2], family, spot[2]))
                break


def _draw_tie(canvas: Canvas, places: Sequence[Place], colour: str) -> list[Box]:
    """A line through marks of a family; returns small boxes along it, to keep names off."""
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    canvas.add("path", d=path, kind=f"tie {colour}")
    along = []
    for (x, y), (far, high) in pairwise(places):
        steps = 1 + int(abs(far - x) / 6)
        for share in (step / steps for step in range(steps + 1)):
            along.append(_around((x + share * (far - x), y + share * (high - y)), 3, 1))
    return along


def _draw_shape(canvas: Canvas, kind: int, place: Place, colour: str) -> None:
    move = f"translate({place[0]:.1f} {place[1]:.1f})"
    canvas.add("path", d=_SHAPES[kind % len(_SHAPES)], transform=move, kind=f"dot {colour}")


def _around(place: Place, across: float, up: float) -> Box:
    return Box(place[0] - across, place[1] - up, place[0] + across, place[1] + up)


def _draw_key(canvas: Canvas, kinds: Sequence[str]) -> float:
    """Shapes and what they stand for; returns where the plot may begin."""
    x, y = 6.0, 2.0 * LINE
    for index, kind in enumerate(kinds):
        needed = 12 + text_width(kind) + 14
        if x > 6 and x + needed > canvas.width:
            x, y = 6.0, y + LINE + 2
        _draw_shape(canvas, index, (x, y - 4), "key")
        canvas.text(x + 10, y, kind, kind="m")
        x += needed
    return y + 8
