"""Figures of a run: loss curves, confusion matrices, the projection of the invariant features.

Drawn with matplotlib's object interface alone: no display, no global state, the same bytes for the
same numbers. matplotlib is imported when something is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.files import keep_fonts_in_cache
from ifmmin.runtime.modality import MODALITIES

from .evaluate import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8C8C00")
"""Okabe and Ito's palette, which the colour-blind can tell apart; its yellow darkened."""
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
_NO_CURVE = ("stage", "epoch", "rate")
_TITLES = {"cross_entropy": "cross-entropy", "cmd": "CMD", "validation": "validation figure"}
_DPI = 120

History = Sequence[Mapping[str, float]]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    keep_fonts_in_cache()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG without the time and the version in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names of classes may hold dollars, and are no formulas
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=_DPI, format="png", metadata={"Software": None})


def colour(index: int) -> str:
    """The colour of the index-th thing."""
    return COLOURS[index % len(COLOURS)]


def losses(histories: Sequence[History], title: str) -> Figure:
    """A row per stage, an axis per loss term and one for the validation figure.

    Lines are means over the histories, bands reach from the lowest to the highest.
    """
    rows = [row for history in histories for row in history]
    stages = sorted({int(row["stage"]) for row in rows})
    names = [n for n in dict.fromkeys(n for row in rows for n in row) if _is_curve(n)]
    names.sort(key="validation".__eq__)
    figure = new_figure(2.6 * len(names) + 0.4, 2.3 * len(stages) + 0.5)
    axes = figure.subplots(len(stages), len(names), squeeze=False)
    for line, stage in enumerate(stages):
        for place, name in enumerate(names):
            _curve(axes[line, place], [r for r in rows if r["stage"] == stage], name, place)
        shown = [axis for axis in axes[line] if axis.get_visible()]
        shown[0].set_ylabel(f"stage {stage}")
    figure.suptitle(title)
    return figure


def _is_curve(name: str) -> bool:
    return name not in _NO_CURVE and not name.startswith("active_")


def _curve(axis: Axes, rows: History, name: str, place: int) -> None:
    by_epoch: dict[int, list[float]] = {}
    for row in rows:
        if name in row:
            by_epoch.setdefault(int(row["epoch"]), []).append(row[name])
    axis.set_visible(bool(by_epoch))
    if not by_epoch:
        return
    epochs = sorted(by_epoch)
    found = [by_epoch[epoch] for epoch in epochs]
    marker = "o" if len(epochs) < 3 else None
    axis.plot(epochs, [np.mean(v) for v in found], color=colour(place), marker=marker)
    lowest, highest = [min(v) for v in found], [max(v) for v in found]
    axis.fill_between(epochs, lowest, highest, color=colour(place), alpha=0.2, linewidth=0)
    axis.set_title(_TITLES.get(name, name), fontsize="medium")
    axis.set_xlabel("epoch")
    axis.locator_params(axis="x", integer=True, nbins=5)
    axis.grid(alpha=0.3)


def confusion(
    matrices: Mapping[str, NDArray[np.int64]], labels: Sequence[str], title: str
) -> Figure:
    """A panel per pattern: of the utterances of a class (rows), the share answered as each
    (columns), in percent."""
    size = 1.3 + 0.45 * len(labels)
    down = 1 + (len(matrices) > 3)
    across = -(-len(matrices) // down)
    figure = new_figure(across * size, down * size + 0.5)
    axes = figure.subplots(down, across, squeeze=False).flatten()
    image: Any = None
    for axis, (pattern, counts) in zip(axes, matrices.items(), strict=False):
        shares = 100.0 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axis.imshow(shares, vmin=0, vmax=100, cmap="Blues")
        for (true, answered), share in np.ndenumerate(shares):
            ink = "white" if share > 55 else "black"
            axis.text(
                answered, true, f"{share:.0f}", ha="center", va="center", color=ink,
                fontsize="small",
            )  # fmt: skip
        axis.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize="small")
        axis.set_yticks(range(len(labels)), labels, fontsize="small")
        axis.set_title(pattern)
    for axis in axes[len(matrices) :]:
        axis.set_visible(False)
    figure.colorbar(image, ax=axes.tolist(), shrink=0.6, label="% of the true class")
    figure.supxlabel("answered")
    figure.supylabel("true")
    figure.suptitle(title)
    return figure


def curves(
    lines: Mapping[str, Sequence[tuple[float, float, float, float]]],
    xlabel: str,
    ylabel: str,
    chance: float,
) -> Figure:
    """A line per name through points (x, y, low, high), in [0, 1]; the band is from low to high."""
    figure = new_figure(6.4, 4.2)
    axis = figure.subplots()
    for index, (name, points) in enumerate(lines.items()):
        x, y, low, high = np.array(points).T
        marker = MARKERS[index % len(MARKERS)]
        axis.plot(x, y, color=colour(index), marker=marker, markersize=4, label=name)
        axis.fill_between(x, low, high, color=colour(index), alpha=0.15, linewidth=0)
    axis.axhline(chance, color="grey", linewidth=1, linestyle=":", label="chance")
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.set_ylim(0, 1)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=min(5, len(lines) + 1), frameon=False)
    return figure


def projection(points: Sequence[Point], labels: Sequence[str], title: str) -> Figure:
    """Invariant features on two principal components: colour by modality, marker by class."""
    from matplotlib.lines import Line2D

    figure = new_figure(6.4, 4.6)
    axis = figure.subplots()
    shown = [m for m in MODALITIES if any(p.modality == m.value for p in points)]
    for index, modality in enumerate(shown):
        for number, label in enumerate(labels):
            some = [p for p in points if p.modality == modality.value and p.label == label]
            axis.scatter(
                [p.x for p in some], [p.y for p in some], s=18, alpha=0.6, linewidths=0,
                color=colour(index), marker=MARKERS[number % len(MARKERS)],
            )  # fmt: skip
    keys = [
        Line2D([], [], linestyle="", marker="o", color=colour(i), label=m.word)
        for i, m in enumerate(shown)
    ] + [
        Line2D([], [], linestyle="", marker=MARKERS[n % len(MARKERS)], color="grey", label=label)
        for n, label in enumerate(labels)
    ]
    figure.legend(handles=keys, loc="outside right upper", frameon=False)
    axis.set_xlabel("first principal component")
    axis.set_ylabel("second principal component")
    axis.grid(alpha=0.3)
    figure.suptitle(title)
    return figure


def draw_run(
    folder: Path,
    history: History,
    metrics: Mapping[str, Any],
    points: Sequence[Point],
    labels: Sequence[str],
) -> None:
    """The plots of one run into an existing folder; what does not apply to its model is left
    out."""
    if history:
        save(losses([history], "Training"), folder / "losses.png")
    matrices = {p: np.array(found["confusion"]) for p, found in metrics["test"].items()}
    save(confusion(matrices, labels, "Answers on the test part"), folder / "confusion.png")
    if points:
        save(projection(points, labels, "Invariant features H'"), folder / "projection.png")
