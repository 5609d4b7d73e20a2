"""Comparison of two reports: which rows of ours became slower, and how much could not be seen.

The time of a row is divided, round by round, by that of the reference workload, which took turns
with it: what slowed both cancels. A row's change is the median of these ratios after, divided by
that before. Its interval is by the bootstrap over rounds, a row and its reference drawn together.
Memory, size and energy do not follow the speed of the machine and are compared as they are. Rates
are turned round, so that a change above 1 is worse for every unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ifmmin.runtime.console import print_table, write
from ifmmin.runtime.errors import InputError

from .device.describe import describe
from .record import OURS, REFERENCE, Report, Row
from .report.summary import TIMES, Scale, number, percent, span
from .timing import FEWEST, Array, Ratio, ratio_of_medians

THRESHOLD = 0.10
LEVEL = 0.99
"""Of the intervals: with the threshold, it keeps reports of dozens of rows without false alarms."""
TIMED = ("s", "1/s")
"""Units that follow the speed of the machine."""
Verdict = Literal["slower", "faster", "same", "unclear"]
_PASSING = {"other work", "temperature", "throttling", "frequency", "looks that failed"}
"""Of the device, what is never the same twice; the reference workload stands for it."""


@dataclass(frozen=True)
class Change:
    """One of our rows in both runs."""

    before: Row
    after: Row
    ratio: Ratio
    """Cost after / before; without a width where there is no time."""
    threshold: float
    """The smallest relative change that counts."""

    @property
    def verdict(self) -> Verdict:
        """Slower: it counts, and the interval lies above 1; faster: the reverse. Same: all of the
        interval is too small to count."""
        ratio, counts = self.ratio, 1.0 + self.threshold
        if ratio.value >= counts and ratio.low > 1.0:
            return "slower"
        if ratio.value <= 1.0 / counts and ratio.high < 1.0:
            return "faster"
        return "same" if ratio.high < counts and ratio.low > 1.0 / counts else "unclear"

    @property
    def unseen(self) -> float:
        """The relative slow-down that a row which is not slower may hide: up to the end of its
        interval, and as much as had to come on top of what was measured to be called slower."""
        ratio = self.ratio
        return max(ratio.high, 1.0 / ratio.low, (1.0 + self.threshold) / ratio.value) - 1.0


@dataclass(frozen=True)
class Comparison:
    """What two reports say beside each other."""

    rows: tuple[Change, ...]
    machine: float | None
    """Time of the reference workload, after / before; None where no times were compared."""
    notes: tuple[str, ...]
    """What was not compared, and what else differs: a sentence each."""

    def of(self, verdict: Verdict) -> tuple[Change, ...]:
        """Rows of a verdict."""
        return tuple(row for row in self.rows if row.verdict == verdict)

    def show(self, *, every: bool = False) -> None:
        """Print what changed and how that was judged. every: rows that did not change too."""
        rows = [row for row in self.rows if every or row.verdict in ("slower", "faster")]
        if rows:
            cells = [_cells(row) for row in sorted(rows, key=lambda row: -row.ratio.value)]
            print_table(("row", "before", "after", "change", "verdict"), cells)
            write("")
        for line in self.lines():
            write(line)

    def lines(self) -> Iterator[str]:
        """What is said below the table, a sentence each."""
        counts = [f"{len(self.of('slower'))} slower", f"{len(self.of('faster'))} faster"]
        counts += [f"{len(self.of('same'))} the same", f"{len(self.of('unclear'))} unclear"]
        yield f"{len(self.rows)} rows compared: {', '.join(counts)}."
        if self.machine is not None:
            yield (
                f"The reference workload took {number(self.machine)} times as long the second "
                "time. A change is that of a row beside it, round by round, with an interval of "
                f"{100 * LEVEL:g} %; above 1 is worse."
            )
        found = [row for row in self.of("same") + self.of("unclear") if row.before.unit in TIMED]
        if found:
            worst = max(found, key=lambda row: row.unseen)
            half = percent(float(np.median([row.unseen for row in found])))
            yield (
                f"Up to {percent(worst.unseen)} may have been added to {worst.before.subject} "
                f"unseen, to half of the rows no more than {half}; to see less, run longer and "
                "close other work."
            )
        yield from self.notes


def compare(before: Report, after: Report, *, threshold: float = THRESHOLD) -> Comparison:
    """Match our rows of two runs and tell how each changed.

    threshold: the smallest relative change that counts. Raises InputError where a report has two
    rows of one key, or nothing can be compared.
    """
    first, second = _by_key(before, "first"), _by_key(after, "second")
    marks, new_marks = (
        {row.group: row for row in rows.values() if row.contender == REFERENCE}
        for rows in (first, second)
    )
    rows, without, few = [], [], []
    for key, row in first.items():
        if row.contender != OURS or key not in second:
            continue
        mark, new_mark = marks.get(row.group), new_marks.get(row.group)
        ratio = None
        if row.unit not in TIMED:
            was, now = (float(np.median(one.samples)) for one in (row, second[key]))
            if min(was, now) > 0:
                ratio = Ratio(now / was, now / was, now / was)
        elif mark is None or new_mark is None:
            without.append(row)
            continue
        else:
            old, new = _beside(row, mark), _beside(second[key], new_mark)
            if min(len(old), len(new)) >= FEWEST:
                ratio = ratio_of_medians(new, old, paired=False, level=LEVEL)
        if ratio is None:
            few.append(row)
        else:
            rows.append(Change(row, second[key], ratio, threshold))
    notes = (
        *(
            f"The {which} report has no reference workload, as of older versions: no times were "
            "compared; run ifmmin-bench again."
            for which, found in (("first", marks), ("second", new_marks))
            if without and not found
        ),
        *_told("only in the first report", (r for k, r in first.items() if k not in second)),
        *_told("only in the second report", (r for k, r in second.items() if k not in first)),
        *_told("not compared, for no reference workload took turns with it", without),
        *_told(f"not compared, for it has fewer than {FEWEST} rounds", few),
        *_differences(before, after),
    )
    if not rows:
        raise InputError(
            f"the reports have no row of {OURS} to compare; give runs of the same scenarios, "
            f"patterns, backends, precisions and threads. {' '.join(notes[:1])}".rstrip()
        )
    compared = {change.before.group for change in rows}
    moved = [
        _middle(new_marks[group]) / _middle(mark)
        for group, mark in marks.items()
        if group in compared
    ]
    return Comparison(tuple(rows), float(np.median(moved)) if moved else None, notes)


def _by_key(report: Report, which: str) -> dict[tuple[Any, ...], Row]:
    """Measured rows of ours and of the reference. Raises InputError for two rows of one key."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in report.rows:
        if row.contender in (OURS, REFERENCE) and row.samples:
            if row.key in found:
                raise InputError(
                    f"the {which} report has two rows for {row.subject}; "
                    "give a report as ifmmin-bench wrote it"
                )
            found[row.key] = row
    return found


def _beside(row: Row, mark: Row) -> Array:
    """Cost over that of the reference (R,), of the rounds in which neither is 0."""
    pairs = [pair for pair in zip(row.samples, mark.samples, strict=False) if min(pair) > 0]
    own, its = np.array(pairs, np.float64).reshape(-1, 2).T
    return np.asarray(its / own if row.unit == "1/s" else own / its)


def _middle(mark: Row) -> float:
    """Median cost of the reference."""
    middle = float(np.median([sample for sample in mark.samples if sample > 0]))
    return 1.0 / middle if mark.unit == "1/s" else middle


def _told(what: str, rows: Iterable[Row]) -> Iterator[str]:
    ours = [row.subject for row in rows if row.contender == OURS]
    if ours:
        yield f"{what.capitalize()}: {ours[0]}{f' and {len(ours) - 1} more' if ours[1:] else ''}."


def _differences(before: Report, after: Report) -> Iterator[str]:
    """What else changed: the device, its software, the bundle, the settings; of what is a list of
    words, the words that differ."""
    first, second = _circumstances(before), _circumstances(after)
    for name in dict.fromkeys((*first, *second)):
        was, now = (facts.get(name, "none").split(", ") for facts in (first, second))
        if was != now:
            lost, new = (
                ", ".join(word for word in one if word not in other) or "none"
                for one, other in ((was, now), (now, was))
            )
            yield f"Not the same in both runs: {name}: {lost} before, {new} after."


def _circumstances(report: Report) -> dict[str, str]:
    device = {k: text for k, text in describe(report.device_before) if k not in _PASSING}
    bundle = {
        "model": report.bundle.model,
        "checkpoint": report.bundle.checkpoint_sha256[:12],
        "manifest": report.bundle.manifest_sha256[:12],
    }
    settings = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in report.settings.items()
    }
    return {**device, **bundle, **settings}


def _cells(row: Change) -> tuple[str, ...]:
    medians = [float(np.median(side.samples)) for side in (row.before, row.after)]
    scale, ratio = Scale.of(row.before.unit, medians), row.ratio
    interval = f" ({span(number(ratio.low), number(ratio.high))})" if ratio.low < ratio.high else ""
    larger = {"slower": "larger", "faster": "smaller"} if row.before.unit == "bytes" else {}
    return (
        row.before.subject,
        *(scale.text(value) for value in medians),
        f"{number(ratio.value)}{TIMES}{interval}",
        larger.get(row.verdict, row.verdict),
    )
