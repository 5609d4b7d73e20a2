"""Gain: by how much a sweep's first entry is better than each other, against every varied field.

The interval is of the training as well as of the test: units of one fold are averaged, and folds,
in a synthetic corpus draws of their own, are the sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from ifmmin.runtime.console import markdown_table

from ..metrics import shown
from ..plots import MARKERS, colour, new_figure
from .plan import Plan, flat
from .results import Result, columns_of, possible, values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONFIDENCE = 0.95
Results = Mapping[str, Sequence[Result]]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """The entries as they are, or all of them with one field changed."""

    key: str
    """The field; empty for the entries as they are."""
    value: str
    entries: dict[str, str]
    """Names of the entries that are meant, by those of the entries as they are."""

    def __str__(self) -> str:
        return f"{self.key}={self.value}" if self.key else "as it is"


@dataclass(frozen=True)
class Gain:
    """UA of `first` minus UA of `second` under a setting."""

    first: str
    second: str
    setting: Setting
    mean: dict[str, float]
    """By column, over folds."""
    half_width: dict[str, float]
    """Of the interval, by column; nan with a single fold."""
    folds: int


def settings(plan: Plan) -> list[Setting]:
    """As it is, then every changed field with its value, in the order of the plan."""
    found = [Setting("", "", {name: name for name in plan.entries if name not in plan.varied})]
    for name, varied in plan.varied.items():
        if (found[-1].key, found[-1].value) != (varied.key, varied.value):
            found.append(Setting(varied.key, varied.value, {}))
        found[-1].entries[varied.entry] = name
    return found


def first_entry(plan: Plan) -> str:
    """The entry that is compared with the others."""
    return next(iter(plan.entries))


def gains(plan: Plan, results: Results) -> list[Gain]:
    """The first entry against each other, setting by setting, on the units that both have."""
    found = []
    first = first_entry(plan)
    for setting in settings(plan):
        for second in setting.entries:
            if second == first or first not in setting.entries:
                continue
            mine, its = (results.get(setting.entries[name], []) for name in (first, second))
            by_fold = _by_fold(mine, its)
            if by_fold is not None:
                columns = columns_of(mine[0].patterns)
                numbers = (by_fold.mean(axis=0), _half_width(by_fold))
                means, widths = (dict(zip(columns, x.tolist(), strict=True)) for x in numbers)
                found.append(Gain(first, second, setting, means, widths, len(by_fold)))
    return found


def _by_fold(first: Sequence[Result], second: Sequence[Result]) -> Array | None:
    """Differences in UA (F, P + 1), the mean over a fold's seeds; None without common units."""
    other = {(r.unit.fold, r.unit.seed): r for r in second}
    common = [r for r in first if (r.unit.fold, r.unit.seed) in other]
    if not common:
        return None
    its = [other[r.unit.fold, r.unit.seed] for r in common]
    difference = values(common, "ua") - values(its, "ua")
    folds = np.array([r.unit.fold for r in common])
    return np.array([difference[folds == fold].mean(axis=0) for fold in np.unique(folds)])


def _half_width(by_fold: Array) -> Array:
    count = len(by_fold)
    if count < 2:
        return np.full(by_fold.shape[1], np.nan)
    quantile = float(student.ppf(0.5 + CONFIDENCE / 2, count - 1))
    return np.asarray(quantile * by_fold.std(axis=0, ddof=1) / math.sqrt(count))


def gain_table(plan: Plan, results: Results, found: Sequence[Gain]) -> str:
    """A row per setting: UA of the first entry, what the Bayes rule reaches, gains of the mean."""
    others = list(dict.fromkeys(gain.second for gain in found))
    first = first_entry(plan)
    rows = []
    for setting in settings(plan):
        some = results.get(setting.entries.get(first, ""), [])
        if not some:
            continue
        best = possible(some)
        column = columns_of(some[0].patterns)[-1]
        row = [str(setting), shown(float(np.nanmean(values(some, "ua")[:, -1])))]
        row.append("-" if best is None else f"{best[column]:.3f}")
        of = {gain.second: gain for gain in found if gain.setting == setting}
        row += [_cell(of[name], column) if name in of else "-" for name in others]
        rows.append(row)
    return markdown_table(
        ["setting", first, "possible", *(f"over {name}" for name in others)], rows
    )


def _cell(gain: Gain, column: str) -> str:
    mean, width = gain.mean[column], gain.half_width[column]
    if math.isnan(mean):
        return "-"
    star = "*" if abs(mean) > width else " "
    return f"{mean:+.3f}" + ("  " if math.isnan(width) else f" ± {width:.3f}{star}")


def gain_rows(found: Sequence[Gain]) -> Iterable[Sequence[object]]:
    """Rows of gains.csv, the heading first."""
    yield "first", "second", "key", "value", "pattern", "gain", "half_width", "folds"
    for gain in found:
        for column, mean in gain.mean.items():
            numbers = (_number(mean), _number(gain.half_width[column]))
            setting = gain.setting
            yield gain.first, gain.second, setting.key, setting.value, column, *numbers, gain.folds


def _number(value: float) -> float | str:
    return "" if math.isnan(value) else round(value, 6)


_GROUP = 0.5
"""Width over which the entries of one value are spread; values are 1 apart."""


def gain_plot(plan: Plan, found: Sequence[Gain]) -> Figure:
    """An axis per varied field: gain of the mean over each other entry against its values."""
    keys = list(dict.fromkeys(gain.setting.key for gain in found if gain.setting.key))
    others = list(dict.fromkeys(gain.second for gain in found))
    drawn = new_figure(1.0 + 2.5 * len(keys), 3.6)
    axes = drawn.subplots(1, len(keys), squeeze=False, sharey=True).flatten()
    first = first_entry(plan)
    own = flat(msgspec.to_builtins(plan.entries[first]))
    for axis, key in zip(axes, keys, strict=True):
        base = str(own.get(key))
        some = {(g.second, g.setting.value or base): g for g in found if g.setting.key in ("", key)}
        _draw(axis, some, others, sorted({value for _, value in some}, key=_order))
        axis.set_xlabel(key)
    axes[0].set_ylabel(f"UA of {first} minus that of")
    handles, labels = axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=len(others), frameon=False)
    return drawn


def _order(value: str) -> tuple[float, str]:
    """Numbers by size, words after them."""
    try:
        return float(value), ""
    except ValueError:
        return math.inf, value


def _draw(
    axis: Axes, some: Mapping[tuple[str, str], Gain], others: Sequence[str], ticks: Sequence[str]
) -> None:
    axis.axhline(0, color="grey", linewidth=1)
    for index, second in enumerate(others):
        there = [(place, some[second, v]) for place, v in enumerate(ticks) if (second, v) in some]
        shift = ((index + 0.5) / len(others) - 0.5) * _GROUP
        axis.errorbar(
            [place + shift for place, _ in there],
            [[*gain.mean.values()][-1] for _, gain in there],
            yerr=[np.nan_to_num([*gain.half_width.values()][-1]) for _, gain in there],
            color=colour(index), marker=MARKERS[index % len(MARKERS)], markersize=4, capsize=2,
            linewidth=1, label=second,
        )  # fmt: skip
    axis.set_xticks(range(len(ticks)), ticks)
    axis.set_xlim(-0.5, len(ticks) - 0.5)
    axis.grid(axis="y", alpha=0.3)
