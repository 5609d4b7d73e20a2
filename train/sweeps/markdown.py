"""The text of results.md: the same units give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ifmmin.runtime.console import markdown_table
from ifmmin.train.sweeps.figures import COLUMNS, FIGURES, Spread, possible, spreads
from ifmmin.train.sweeps.health import warnings
from ifmmin.train.sweeps.paired import RESAMPLES, Difference
from ifmmin.train.sweeps.plan import Plan, Unit
from ifmmin.train.sweeps.results import Result

_LONG = {
    "ua": "UA: unweighted accuracy, the mean recall over classes",
    "wa": "WA: weighted accuracy, the share of right answers",
    "f1": "F1: macro F1",
    "ece": "ECE: expected calibration error, after calibration; lower is better",
}
_SPREAD = """\
Mean over all units ± standard deviation (n - 1) over seeds of the mean over folds; with a single
whole seed, over units."""
_PAIRED = f"""\
First entry minus second, UA pooled over the folds' test utterances, mean over seeds. ± is the
standard error by bootstrap over utterances ({RESAMPLES:,} resamples; an utterance keeps its
patterns, seeds and entries together); * is a difference of more than two standard errors. How much
training varies is not in it: see the deviation over seeds."""
_CALIBRATION = """\
Before → after temperature scaling on validation data; mean over units. Confidence is the mean
probability of the answer; calibrated, it is near WA."""


@dataclass(frozen=True)
class Findings:
    """All that a sweep's report is made of."""

    plan: Plan
    results: dict[str, list[Result]]
    """Finished units by entry; entries without any are left out."""
    differences: list[Difference]
    failures: dict[Unit, str]
    """Why units failed."""
    plots: list[str]
    """Names of the files in plots/."""

    @property
    def figures(self) -> list[str]:
        """The figures of merit, the one that picks epochs first."""
        lead = next(iter(self.plan.entries.values())).select
        return sorted(FIGURES, key=lambda name: name != lead)


def render(found: Findings) -> str:
    """results.md."""
    sections = [_head(found)]
    for number, figure in enumerate(found.figures):
        note = f"\n\n{_SPREAD}" if number == 0 else ""
        sections.append(f"## {_LONG[figure]}{note}\n\n{_figure_table(found, figure)}")
    sections.append(_spread_section(found))
    if found.differences:
        sections.append(f"## Paired differences in UA\n\n{_PAIRED}\n\n{_difference_table(found)}")
    sections += [_calibration(found), _health(found)]
    if found.failures:
        lines = [f"- {unit}: {reason}" for unit, reason in found.failures.items()]
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
        units = len(found.results.get(name, []))
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
        rows.append([name, *(_cell(by_column[column]) for column in COLUMNS)])
    best = possible([r for results in found.results.values() for r in results])
    if figure == "wa" and best is not None:
        rows.append(["possible (Bayes rule)", *(f"{best[column]:.3f}" for column in COLUMNS)])
    return markdown_table(["entry", *COLUMNS], rows)


def _cell(spread: Spread) -> str:
    return f"{spread.mean:.3f}" + ("" if math.isnan(spread.shown) else f" ± {spread.shown:.3f}")


def _spread_section(found: Findings) -> str:
    figure = found.figures[0]
    rows = []
    for name, results in found.results.items():
        six = spreads(results, figure)["mean of six"]
        numbers = (six.mean, six.over_seeds, six.over_units)
        cells = ["-" if math.isnan(number) else f"{number:.4f}" for number in numbers]
        rows.append([name, *cells, str(six.units)])
    headers = ["entry", "mean", "deviation over seeds", "deviation over units", "units"]
    return f"## {figure.upper()}, mean of six: spread\n\n{markdown_table(headers, rows)}"


def _difference_table(found: Findings) -> str:
    rows = []
    for d in found.differences:
        cells = [
            f"{d.value[c]:+.3f} ± {d.error[c]:.3f}{'*' if d.stands_out(c) else ' '}"
            for c in COLUMNS
        ]
        rows.append([f"{d.first} - {d.second}", *cells, str(d.units)])
    return markdown_table(["entries", *COLUMNS, "units of each"], rows)


def _calibration(found: Findings) -> str:
    tables = []
    for figure, title in (("ece", "ECE"), ("confidence", "Confidence")):
        rows = []
        for name, results in found.results.items():
            before, after = (spreads(results, f) for f in (f"{figure}_uncalibrated", figure))
            pairs = (f"{before[c].mean:.3f} → {after[c].mean:.3f}" for c in COLUMNS)
            rows.append([name, *pairs])
        tables.append(f"{title}:\n\n{markdown_table(['entry', *COLUMNS], rows)}")
    return f"## Calibration\n\n{_CALIBRATION}\n\n" + "\n\n".join(tables)


def _health(found: Findings) -> str:
    return "## Health\n\n" + "\n".join(_health_lines(found.results) or ["Nothing to report."])


def _health_lines(results: Mapping[str, Sequence[Result]]) -> list[str]:
    return [f"- {name}, {line}" for name, some in results.items() for line in warnings(some)]
