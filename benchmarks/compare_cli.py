"""`ifmmin-bench compare`: did anything become slower between two runs?"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from ifmmin.benchmarks.compare import THRESHOLD, Comparison, compare
from ifmmin.benchmarks.differences import differences
from ifmmin.benchmarks.judge import ALPHA, FEWEST, Compared
from ifmmin.benchmarks.judge import TIMES as JUDGED
from ifmmin.benchmarks.record import Report
from ifmmin.benchmarks.record_file import read_report
from ifmmin.benchmarks.report.scale import TIMES, Scale, number, percent, span
from ifmmin.runtime.command import parser
from ifmmin.runtime.console import print_table, write
from ifmmin.runtime.errors import InputError

EXIT_SLOWER = 1


def compare_reports(arguments: Sequence[str]) -> int:
    """Compare two records. Returns 1 with `--fail-on-slower` when something is slower, else 0."""
    options = _parser().parse_args(arguments)
    if not options.threshold >= 0:
        raise InputError(f"--threshold: got {options.threshold}, wanted 0 or more, such as 0.05")
    before, after = read_report(options.before), read_report(options.after)
    found = compare(before, after, threshold=options.threshold)
    show(found, before, after, every=options.all)
    slower = bool(found.slower) or found.all_slower
    return EXIT_SLOWER if slower and options.fail_on_slower else 0


def _parser() -> argparse.ArgumentParser:
    cli = parser(
        "ifmmin-bench compare",
        "Tell what became slower between two runs, and what only looks so: the drift of the "
        "machine is taken out by the peers, chance is judged by the A/A controls.",
    )
    cli.add_argument("before", type=Path, help="report.json of the run to compare with")
    cli.add_argument("after", type=Path, help="report.json of the new run")
    cli.add_argument("--fail-on-slower", action="store_true", help="exit with 1 if a row is slower")
    cli.add_argument(
        "--threshold", type=float, default=THRESHOLD, metavar="SHARE",
        help=f"smallest slow-down that counts; default {THRESHOLD}",
    )  # fmt: skip
    cli.add_argument("--all", action="store_true", help="show the rows that did not change too")
    return cli


def show(found: Comparison, before: Report, after: Report, *, every: bool = False) -> None:
    """Print what changed and how that was judged. every: rows that did not change too."""
    rows = [row for row in found.rows if every or row.verdict != "same"]
    rows.sort(key=lambda row: -row.ratio.value)
    if rows:
        headers = ("row", "before", "after", "after / before", "twin", "verdict")
        print_table(headers, [_cells(row) for row in rows])
        write("")
    for line in _lines(found):
        write(line)
    changed = differences(before, after)
    if changed:
        write("\nNot the same in both runs, so not only the code can be the reason:")
        print_table(("what", "before", "after"), changed)


def _cells(row: Compared) -> tuple[str, ...]:
    medians = [median(side.samples) for side in (row.before, row.after)]
    scale = Scale.of(row.before.unit, medians)
    ratio = row.ratio
    interval = span(number(ratio.low), number(ratio.high))
    return (
        row.before.subject,
        *(scale.text(value) for value in medians),
        f"{number(ratio.value)}{TIMES} ({interval})",
        "" if row.twin is None else f"{number(row.twin)}{TIMES}",
        _VERDICTS.get(row.before.unit, {}).get(row.verdict, row.verdict),
    )


_VERDICTS = {
    "bytes": {"slower": "larger", "faster": "smaller"},
    "J": {"slower": "hungrier", "faster": "thriftier"},
}
"""Words for what is no time."""


def _lines(found: Comparison) -> Iterator[str]:
    yield (
        f"{len(found.rows)} rows compared: {len(found.slower)} slower, {len(found.faster)} faster."
    )
    yield _drift_line(found)
    yield (
        "Two sessions of one graph differ by "
        f"{percent(math.sqrt(found.noise.variance))} (standard deviation, "
        f"{'assumed: no A/A control' if math.isinf(found.noise.degrees) else 'A/A controls'})."
    )
    yield (
        "Ratios are of cost, above 1 is worse; their intervals hold for all rows at once, with a "
        f"chance of {ALPHA:.0%} for any false alarm in a direction (Holm)."
    )
    yield from _hidden(found)
    if found.all_slower:
        yield (
            "Everything slowed down together by more than a machine's drift, and no peer ran that "
            "could tell the code from the machine: counted as slower. Run with peers to find out."
        )
    for name in found.changed_peers:
        yield f"{name} changed itself, and is no reference."
    for rows, what in (
        (found.only_before, "only in the first report"),
        (found.only_after, "only in the second report"),
        (found.few, f"measured fewer than {FEWEST} times, and not judged"),
    ):
        if rows:
            others = len(rows) - 1
            more = f" and {others} more" if others else ""
            yield f"{what.capitalize()}: {rows[0].subject}{more}."


def _hidden(found: Comparison) -> Iterator[str]:
    """How large a slow-down may be that was not told from chance."""
    same = [row for row in found.rows if row.verdict == "same" and row.before.unit in JUDGED]
    worst = max(same, key=lambda row: row.ratio.high, default=None)
    if worst is not None and worst.ratio.high > 1.0:
        yield (
            f"Up to {percent(worst.ratio.high - 1.0)} may have been added to "
            f"{worst.before.subject} unseen; what is smaller than that wants runs that are longer, "
            "or closer to each other in the machine's speed."
        )


def _drift_line(found: Comparison) -> str:
    moved = math.expm1(abs(found.drift.value))
    direction = "slower" if found.drift.value > 0 else "faster"
    if found.references == "none":
        return "No times were compared, so no drift of the machine was taken out."
    if found.references != "own rows":
        return (
            f"The machine was {percent(moved)} {direction} the second time by {found.references}, "
            "whose code is not ours; that is taken out, per group of rows where it differed."
        )
    return (
        f"No peer ran. All rows together were {percent(moved)} {direction} the second time; that "
        "is taken for the machine's drift and taken out. Run with peers to be sure."
    )
