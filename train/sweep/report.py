"""Report of a sweep: results.md, three CSV files and plots, each written whole.

The same units give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ifmmin.runtime.console import csv_row, escaped, markdown_table
from ifmmin.runtime.files import atomic_file

from ..metrics import SENTIMENT, shown
from ..plots import colour, confusion, losses, new_figure, projection, save
from .gains import CONFIDENCE, Gain, Setting, gain_plot, gain_rows, gain_table, gains, settings
from .plan import Plan, SweepFolder, Unit, slug
from .published import published_section
from .results import (
    FIGURES,
    POOLED,
    RESAMPLES,
    Difference,
    Result,
    Spread,
    columns_of,
    differences,
    pooled,
    pooled_name,
    possible,
    read_results,
    spreads,
    warnings,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LONG = {
    "ua": "UA: unweighted accuracy, the mean recall over classes",
    "wa": "WA: weighted accuracy, the share of right answers",
    "f1": "F1: macro F1",
    "ece": "ECE: expected calibration error, after calibration; lower is better",
    "acc2_nonnegative": f"{SENTIMENT['acc2_nonnegative']}: negative or not, share of right answers",
    "acc2_positive": f"{SENTIMENT['acc2_positive']}: negative or positive, without scores of 0",
    "acc7": f"{SENTIMENT['acc7']}: scores rounded to whole numbers from -3 to 3",
}
_SPREAD = """\
Mean over all units ± standard deviation (n - 1) over seeds of the mean over folds; with a single
whole seed, over units. Without a spread where there is a single unit; - where no test utterance has
anything of the pattern, which the mean then leaves out."""
_PAIRED = f"""\
First entry minus second, UA pooled over the folds' test utterances, mean over seeds. ± is the
standard error by bootstrap over utterances ({RESAMPLES:,} resamples; an utterance keeps its
patterns, seeds and entries together); * is a difference of more than two standard errors. How much
training varies is not in it: see the deviation over seeds."""
_GAINS = f"""\
UA of the first entry, what the Bayes rule has where it is known (`possible`), and the gain over
each other entry on units that both have: mean over folds of the mean over seeds ± half of its
{CONFIDENCE:.0%} interval (Student's t over folds; * where zero is outside)."""
_CALIBRATION = """\
Before → after temperature scaling on validation data; mean over units. Confidence is the mean
probability of the answer; calibrated, it is near WA."""


@dataclass(frozen=True)
class Findings:
    """All that a sweep's report is made of."""

    plan: Plan
    every: dict[str, list[Result]]
    """Finished units by entry; entries without any are left out."""
    differences: list[Difference]
    gains: list[Gain]
    """Where a field is varied."""
    failures: dict[Unit, str]
    """Why units failed."""
    plots: list[str]
    """Names of the files in plots/."""

    @property
    def results(self) -> dict[str, list[Result]]:
        """What tables and plots show: the entries as they are, or all where none of them is."""
        plain = {n: some for n, some in self.every.items() if n not in self.plan.varied}
        return plain or self.every

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of every table: the patterns and the mean of the incomplete ones."""
        return _columns(self.results)

    @property
    def figures(self) -> list[str]:
        """The figures of merit, the one that picks epochs first."""
        lead = next(iter(self.plan.entries.values())).select
        return [*sorted(FIGURES, key=lambda name: name != lead), *self.sentiment]

    @property
    def sentiment(self) -> list[str]:
        """Those of classes that were made of scores, as far as the edges tell them."""
        results = [result for some in self.results.values() for result in some]
        return [
            name
            for name in SENTIMENT
            if all(name in result.test(result.patterns[-1]) for result in results)
            and not all(math.isnan(spread.mean) for spread in spreads(results, name).values())
        ]


def render(found: Findings) -> str:
    """results.md."""
    sections = [_head(found)]
    for number, figure in enumerate(found.figures):
        note = f"\n\n{_SPREAD}" if number == 0 else ""
        sections.append(f"## {_LONG[figure]}{note}\n\n{_figure_table(found, figure)}")
    sections.append(_spread_section(found))
    sections += _averages(found)
    beside = published_section(found.plan, found.results)
    if beside is not None:
        sections.append(beside)
    if found.plan.varied:
        table = gain_table(found.plan, found.every, found.gains)
        sections.append(f"## One field varied: UA, {found.columns[-1]}\n\n{_GAINS}\n\n{table}")
    if found.differences:
        sections.append(f"## Paired differences in UA\n\n{_PAIRED}\n\n{_difference_table(found)}")
    sections += [_calibration(found), _health(found)]
    if found.failures:
        lines = [f"- {unit}: {escaped(reason)}" for unit, reason in found.failures.items()]
        sections.append("## Units that failed\n\n" + "\n".join(lines))
    if found.plots:
        links = [f"- [{name[: -len('.png')]}](plots/{name})" for name in found.plots]
        sections.append("## Plots\n\n" + "\n".join(links))
    return "\n\n".join(sections) + "\n"


def _head(found: Findings) -> str:
    plan = found.plan
    rows = []
    each = len(plan.folds) * len(plan.seeds)
    for name, recipe in plan.entries.items():
        if name in plan.varied:
            continue
        units = len(found.every.get(name, []))
        rows.append([name, recipe.network.model, recipe.name, f"{units} of {each}"])
    folds, seeds = (", ".join(map(str, numbers)) for numbers in (plan.folds, plan.seeds))
    table = markdown_table(["entry", "model", "recipe", "units"], rows)
    return (
        f"# Sweep\n\nFolds {folds}; seeds {seeds}; {plan.threads} CPU thread"
        f"{'' if plan.threads == 1 else 's'} a unit. Patterns are what is present: a acoustic, "
        f"v visual, t textual.\n\n{table}"
    )


def _figure_table(found: Findings, figure: str) -> str:
    rows = []
    for name, results in found.results.items():
        by_column = spreads(results, figure)
        rows.append([name, *(_cell(by_column[column]) for column in found.columns)])
    best = possible([r for results in found.results.values() for r in results])
    if figure == "wa" and best is not None:
        rows.append(["possible (Bayes rule)", *(f"{best[column]:.3f}" for column in found.columns)])
    return markdown_table(["entry", *found.columns], rows)


def _cell(spread: Spread) -> str:
    return shown(spread.mean) + ("" if math.isnan(spread.shown) else f" ± {spread.shown:.3f}")


def _spread_section(found: Findings) -> str:
    figure, mean = found.figures[0], found.columns[-1]
    rows = []
    for name, results in found.results.items():
        over = spreads(results, figure)[mean]
        numbers = (over.mean, over.over_seeds, over.over_units)
        cells = [shown(number, ".4f") for number in numbers]
        rows.append([name, *cells, str(over.units)])
    headers = ["entry", "mean", "deviation over seeds", "deviation over units", "units"]
    return f"## {figure.upper()}, {mean}: spread\n\n{markdown_table(headers, rows)}"


def _averages(found: Findings) -> list[str]:
    """The mean over the patterns beside the figure of all their answers."""
    patterns = next(iter(found.results.values()))[0].patterns
    if len(patterns) == 1:
        return []
    mean, together = found.columns[-1], pooled_name(patterns[:-1])
    rows = []
    for name, results in found.results.items():
        of_all = pooled(results)
        pairs = ((spreads(results, figure)[mean].mean, of_all[figure]) for figure in of_all)
        rows.append([name, *(shown(number) for pair in pairs for number in pair)])
    headers = [f"{f}, {of}" for f in ("WA", "UA", "F1") for of in (mean, together)]
    about = f"{mean.capitalize()}: of the figures under each. {together.capitalize()}: of {POOLED}."
    table = markdown_table(["entry", *headers], rows)
    return [f"## Averages\n\n{about} Both are means over units.\n\n{table}"]


def _difference_table(found: Findings) -> str:
    rows = []
    for d in found.differences:
        if d.first not in found.results:
            continue
        cells = [
            "- "
            if math.isnan(d.value[c])
            else f"{d.value[c]:+.3f} ± {shown(d.error[c])}{'*' if d.stands_out(c) else ' '}"
            for c in found.columns
        ]
        rows.append([f"{d.first} - {d.second}", *cells, str(d.units)])
    return markdown_table(["entries", *found.columns, "units of each"], rows)


def _calibration(found: Findings) -> str:
    tables = []
    for figure, title in (("ece", "ECE"), ("confidence", "Confidence")):
        rows = []
        for name, results in found.results.items():
            before, after = (spreads(results, f) for f in (f"{figure}_uncalibrated", figure))
            pairs = (f"{shown(before[c].mean)} → {shown(after[c].mean)}" for c in found.columns)
            rows.append([name, *pairs])
        tables.append(f"{title}:\n\n{markdown_table(['entry', *found.columns], rows)}")
    return f"## Calibration\n\n{_CALIBRATION}\n\n" + "\n\n".join(tables)


def _health(found: Findings) -> str:
    lines = [f"- {name}, {w}" for name, some in found.results.items() for w in warnings(some)]
    return "## Health\n\n" + "\n".join(lines or ["Nothing to report."])


Results = Mapping[str, Sequence[Result]]
_GROUP = 0.8
"""Width of a pattern's group of bars; patterns are 1 apart."""


def figures(found: Findings) -> Iterator[tuple[str, Figure]]:
    """Every plot of a sweep with its file name."""
    results = found.results
    yield "bars.png", bars(results, found.figures[0])
    if found.gains:
        yield "gains.png", gain_plot(found.plan, found.gains)
    yield "calibration.png", calibration(results)
    for name, some in results.items():
        labels = some[0].labels
        histories = [r.history for r in some if r.history]
        if histories:
            yield f"losses-{slug(name)}.png", losses(histories, f"{name}: {_units(some)}")
        matrices = {
            str(p): np.sum([r.test(p)["confusion"] for r in some], axis=0) for p in some[0].patterns
        }
        title = f"{name}: answers on the test parts, {_units(some)}"
        yield f"confusion-{slug(name)}.png", confusion(matrices, labels, title)
        points = some[0].points
        if points:
            unit = some[0].unit
            title = f"{name}: invariant features H', fold {unit.fold}, seed {unit.seed}"
            yield f"projection-{slug(name)}.png", projection(points, labels, title)


def _columns(results: Results) -> tuple[str, ...]:
    return columns_of(next(iter(results.values()))[0].patterns)


def _units(results: Sequence[Result]) -> str:
    return f"{len(results)} unit{'' if len(results) == 1 else 's'}"


def bars(results: Results, figure: str) -> Figure:
    """A figure of merit per pattern, entries side by side; error bars as in the tables."""
    width, columns = _GROUP / len(results), _columns(results)
    drawn = new_figure(max(8.0, 1.6 + 0.28 * len(results) * len(columns)), 4.2)
    axis = drawn.subplots()
    for index, (name, some) in enumerate(results.items()):
        by_column = list(spreads(some, figure).values())
        axis.bar(
            np.arange(len(columns)) + (index - (len(results) - 1) / 2) * width,
            [spread.mean for spread in by_column],
            width * 0.92,
            yerr=[np.nan_to_num(spread.shown) for spread in by_column],
            color=colour(index), hatch=("", "//", "..")[index // 8 % 3], edgecolor="white",
            linewidth=0, capsize=2, error_kw={"linewidth": 1.0}, label=name,
        )  # fmt: skip
    classes = len(next(iter(results.values()))[0].labels)
    axis.axhline(1 / classes, color="grey", linewidth=1, linestyle=":", label="chance")
    axis.set_xticks(range(len(columns)), columns)
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
    columns = _columns(results)
    places = np.arange(len(columns))
    series = (
        ("accuracy (WA)", "wa", "_", 2, 260),
        ("confidence before", "confidence_uncalibrated", "o", 3, 36),
        ("confidence after", "confidence", "D", 0, 36),
    )
    for axis, (name, some) in zip(axes, results.items(), strict=False):
        for label, figure, marker, tone, size in series:
            means = [spread.mean for spread in spreads(some, figure).values()]
            axis.scatter(
                places, means, marker=marker, s=size, color=colour(tone), label=label,
                linewidths=2.5 if marker == "_" else 0, zorder=2,
            )  # fmt: skip
        axis.set_title(name, fontsize="medium")
        axis.set_xticks(places, columns, rotation=45, ha="right")
        axis.set_ylim(0, 1)
        axis.grid(axis="y", alpha=0.3)
    for axis in axes[len(results) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return drawn


_PER_UNIT = (
    *FIGURES, "confidence", "temperature", "ece_uncalibrated", "confidence_uncalibrated",
)  # fmt: skip
Row = Sequence[object]


def write_report(folder: SweepFolder, plan: Plan) -> Findings | None:
    """Write the report on all finished units; None when there are none."""
    results: dict[str, list[Result]] = {}
    for result in read_results(folder, plan.units()):
        results.setdefault(result.unit.entry, []).append(result)
    results = {name: results[name] for name in plan.entries if name in results}
    if not results:
        return None
    failures = {unit: reason for unit in plan.units() if (reason := folder.failure(unit))}
    compared = [d for s in settings(plan) for d in differences(_of(s, results))]
    gained = gains(plan, results) if plan.varied else []
    found = Findings(plan, results, compared, gained, failures, [])
    for name, figure in figures(found):
        with atomic_file(folder.root / "plots" / name) as part:
            save(figure, part)
        found.plots.append(name)
    if gained:
        _write_csv(folder.root / "gains.csv", gain_rows(gained))
    _write_csv(folder.root / "results.csv", _result_rows(found))
    _write_csv(folder.root / "units.csv", _unit_rows(found))
    _write_csv(folder.root / "differences.csv", _difference_rows(found))
    with atomic_file(folder.root / "results.md") as part:
        part.write_text(render(found), encoding="utf-8")
    return found


def _of(setting: Setting, results: Results) -> Results:
    """The results under a setting."""
    return {name: results[name] for name in setting.entries.values() if name in results}


def _result_rows(found: Findings) -> Iterable[Row]:
    yield "entry", "pattern", "figure", "mean", "sd_over_seeds", "sd_over_units", "units"
    for name, results in found.every.items():
        for figure in found.figures:
            for column, spread in spreads(results, figure).items():
                numbers = (spread.mean, spread.over_seeds, spread.over_units)
                yield name, column, figure, *map(_number, numbers), spread.units


def _unit_rows(found: Findings) -> Iterable[Row]:
    figures = (*_PER_UNIT, *found.sentiment)
    yield "entry", "fold", "seed", "pattern", *figures
    for results in found.every.values():
        for result in results:
            for pattern in result.patterns:
                test = result.test(pattern)
                unit = result.unit
                numbers = (_number(test[figure]) for figure in figures)
                yield unit.entry, unit.fold, unit.seed, str(pattern), *numbers


def _difference_rows(found: Findings) -> Iterable[Row]:
    yield "first", "second", "pattern", "difference", "standard_error", "stands_out", "units"
    for d in found.differences:
        for column in d.value:
            numbers = (_number(d.value[column]), _number(d.error[column]))
            yield d.first, d.second, column, *numbers, int(d.stands_out(column)), d.units


def _number(value: float | None) -> float | str:
    """Six decimals; empty where there is none."""
    return "" if value is None or math.isnan(value) else round(value, 6)


def _write_csv(path: Path, rows: Iterable[Row]) -> None:
    with atomic_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        file.writelines(csv_row(row) + "\n" for row in rows)
