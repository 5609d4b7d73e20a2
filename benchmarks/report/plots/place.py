"""Where names go so that none lies upon another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ifmmin.benchmarks.report.plots.canvas import TEXT, Anchor, Box, text_box

Spot = tuple[float, float, Anchor]
"""x, baseline and anchor of a text."""


def spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, at least `gap` apart, in the same order, within low..high.

    Too many for the room stand closer than `gap`, evenly.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    places = [0.0] * len(wanted)
    last = low - gap
    for index in order:
        last = places[index] = max(wanted[index], last + gap)
    limit = high
    for index in reversed(order):
        places[index] = min(places[index], limit)
        limit = places[index] - gap
    return places


def find_spot(
    text: str, at: tuple[float, float], taken: Iterable[Box], within: Box, away: float
) -> Spot | None:
    """A spot for the name of a mark that meets nothing and stays within the plot, or None.

    away: pixels from the middle of the mark.
    """
    taken = list(taken)
    for spot in _spots(at, away):
        box = text_box(spot[0], spot[1], text, spot[2])
        inside = (
            box.left >= within.left
            and box.right <= within.right
            and box.top >= within.top
            and box.bottom <= within.bottom
        )
        if inside and not any(box.meets(other, 1.0) for other in taken):
            return spot
    return None


def _spots(at: tuple[float, float], away: float) -> list[Spot]:
    """Right, left, above, below, and between these, near ones first."""
    x, y = at
    level = 0.35 * TEXT
    found: list[Spot] = []
    for far in (away, away + 8, away + 18):
        near: list[Spot] = [
            (x + far, y + level, "start"),
            (x - far, y + level, "end"),
            (x, y - far, "middle"),
            (x, y + far + 0.8 * TEXT, "middle"),
            (x + far, y - far, "start"),
            (x - far, y - far, "end"),
            (x + far, y + far + level, "start"),
            (x - far, y + far + level, "end"),
        ]
        found += near
    return found
