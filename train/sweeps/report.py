"""The files of a sweep's report, each written whole: results.md, three CSV files, plots."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from ifmmin.runtime.atomic import atomic_file
from ifmmin.runtime.modality import ALL_PATTERNS
from ifmmin.train.plots import save
from ifmmin.train.sweeps.figures import COLUMNS, FIGURES, spreads
from ifmmin.train.sweeps.folder import SweepFolder
from ifmmin.train.sweeps.markdown import Findings, render
from ifmmin.train.sweeps.paired import differences
from ifmmin.train.sweeps.plan import Plan
from ifmmin.train.sweeps.plots import figures
from ifmmin.train.sweeps.results import Result, read_results

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
    found = Findings(plan, results, differences(results), failures, [])
    for name, figure in figures(results, found.figures[0]):
        with atomic_file(folder.root / "plots" / name) as part:
            save(figure, part)
        found.plots.append(name)
    _write_csv(folder.root / "results.csv", _result_rows(found))
    _write_csv(folder.root / "units.csv", _unit_rows(found))
    _write_csv(folder.root / "differences.csv", _difference_rows(found))
    with atomic_file(folder.root / "results.md") as part:
        part.write_text(render(found), encoding="utf-8")
    return found


def _result_rows(found: Findings) -> Iterable[Row]:
    yield "entry", "pattern", "figure", "mean", "sd_over_seeds", "sd_over_units", "units"
    for name, results in found.results.items():
        for figure in found.figures:
            for column, spread in spreads(results, figure).items():
                numbers = (spread.mean, spread.over_seeds, spread.over_units)
                yield name, column, figure, *map(_number, numbers), spread.units


def _unit_rows(found: Findings) -> Iterable[Row]:
    yield "entry", "fold", "seed", "pattern", *_PER_UNIT
    for results in found.results.values():
        for result in results:
            for pattern in ALL_PATTERNS:
                test = result.test(pattern)
                unit = result.unit
                numbers = (_number(test[figure]) for figure in _PER_UNIT)
                yield unit.entry, unit.fold, unit.seed, pattern, *numbers


def _difference_rows(found: Findings) -> Iterable[Row]:
    yield "first", "second", "pattern", "difference", "standard_error", "stands_out", "units"
    for d in found.differences:
        for column in COLUMNS:
            numbers = (_number(d.value[column]), _number(d.error[column]))
            yield d.first, d.second, column, *numbers, int(d.stands_out(column)), d.units


def _number(value: float) -> str:
    """Six decimals; empty where there is none."""
    return "" if math.isnan(value) else f"{value:.6f}"


def _write_csv(path: Path, rows: Iterable[Row]) -> None:
    with atomic_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
