"""Figures of a sweep: bars, calibration, and per entry what a run has, over all its units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ifmmin.runtime.modality import ALL_PATTERNS
from ifmmin.train.plots import colour, confusion, losses, new_figure, projection
from ifmmin.train.projection import read_projection
from ifmmin.train.run import PROJECTION_NAME
from ifmmin.train.sweeps.figures import COLUMNS, spreads
from ifmmin.train.sweeps.plan import slug
from ifmmin.train.sweeps.results import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = Mapping[str, Sequence[Result]]
_GROUP = 0.8
"""Width of a pattern's group of bars; patterns are 1 apart."""


def figures(results: Results, figure: str) -> Iterator[tuple[str, Figure]]:
    """Every plot of a sweep with its file name; `figure`: the figure of merit of the bars."""
    yield "bars.png", bars(results, figure)
    yield "calibration.png", calibration(results)
    for name, some in results.items():
        labels = some[0].labels
        histories = [r.history for r in some if r.history]
        if histories:
            yield f"losses-{slug(name)}.png", losses(histories, f"{name}: {_units(some)}")
        matrices = {
            str(p): np.sum([r.test(p)["confusion"] for r in some], axis=0) for p in ALL_PATTERNS
        }
        title = f"{name}: answers on the test parts, {_units(some)}"
        yield f"confusion-{slug(name)}.png", confusion(matrices, labels, title)
        points = read_projection(some[0].run / PROJECTION_NAME)
        if points:
            unit = some[0].unit
            title = f"{name}: invariant features H', fold {unit.fold}, seed {unit.seed}"
            yield f"projection-{slug(name)}.png", projection(points, labels, title)


def _units(results: Sequence[Result]) -> str:
    return f"{len(results)} unit{'' if len(results) == 1 else 's'}"


def bars(results: Results, figure: str) -> Figure:
    """A figure of merit per pattern, entries side by side; error bars as in the tables."""
    width = _GROUP / len(results)
    drawn = new_figure(max(8.0, 1.6 + 0.28 * len(results) * len(COLUMNS)), 4.2)
    axis = drawn.subplots()
    for index, (name, some) in enumerate(results.items()):
        by_column = [spreads(some, figure)[column] for column in COLUMNS]
        axis.bar(
            np.arange(len(COLUMNS)) + (index - (len(results) - 1) / 2) * width,
            [spread.mean for spread in by_column],
            width * 0.92,
            yerr=[np.nan_to_num(spread.shown) for spread in by_column],
            color=colour(index), hatch=("", "//", "..")[index // 8 % 3], edgecolor="white",
            linewidth=0, capsize=2, error_kw={"linewidth": 1.0}, label=name,
        )  # fmt: skip
    classes = len(next(iter(results.values()))[0].labels)
    axis.axhline(1 / classes, color="grey", linewidth=1, linestyle=":", label="chance")
    axis.set_xticks(range(len(COLUMNS)), COLUMNS)
    axis.set_xlabel("what is present")
    axis.set_ylabel(figure.upper())
    axis.set_ylim(0, 1)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    axis.margins(x=0.01)
    (chance, *handles), (text, *names) = axis.get_legend_handles_labels()
    drawn.legend(
        [*handles, chance], [*names, text], loc="outside upper center",
        ncols=min(6, len(results) + 1), frameon=False,
    )  # fmt: skip
    return drawn


def calibration(results: Results) -> Figure:
    """Per entry and pattern: accuracy, and the mean confidence before and after calibration."""
    across = min(3, math.ceil(math.sqrt(len(results))))
    down = -(-len(results) // across)
    drawn = new_figure(4.2 * across, 2.8 * down + 0.5)
    axes = drawn.subplots(down, across, squeeze=False, sharey=True).flatten()
    places = np.arange(len(COLUMNS))
    series = (
        ("accuracy (WA)", "wa", "_", 2, 260),
        ("confidence before", "confidence_uncalibrated", "o", 3, 36),
        ("confidence after", "confidence", "D", 0, 36),
    )
    for axis, (name, some) in zip(axes, results.items(), strict=False):
        for label, figure, marker, tone, size in series:
            means = [spreads(some, figure)[column].mean for column in COLUMNS]
            axis.scatter(
                places, means, marker=marker, s=size, color=colour(tone), label=label,
                linewidths=2.5 if marker == "_" else 0, zorder=2,
            )  # fmt: skip
        axis.set_title(name, fontsize="medium")
        axis.set_xticks(places, COLUMNS, rotation=45, ha="right")
        axis.set_ylim(0, 1)
        axis.grid(axis="y", alpha=0.3)
    for axis in axes[len(results) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return drawn
