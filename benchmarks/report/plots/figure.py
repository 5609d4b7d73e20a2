"""A figure: plots that stand side by side, as many in a row as there is room for."""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = 328
"""Pixels of every plot: what a phone has beside its margins, and half of a printed page.

Plots are never scaled, since their text would be scaled with them.
"""


@dataclass(frozen=True)
class Figure:
    """Plots that belong together, with what is to be said of them."""

    caption: str
    plots: tuple[str, ...]
    """SVG."""
