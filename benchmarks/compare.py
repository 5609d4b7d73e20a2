"""Two reports of the same benchmark: which rows became slower, and which only look so.

A row is slower when both hold:

1. The lower end of the interval of its ratio after / before lies above 1. The ratio is freed of the
   machine's drift (`drift`), and its interval is as wide as the samples, the A/A controls of both
   runs and the uncertainty of the drift make it: Student's, with Welch and Satterthwaite's degrees.
   The intervals hold for all rows at once: Holm's procedure keeps the chance of even one false
   alarm per direction and comparison below ALPHA.
2. The ratio is at least 1 + threshold: less is not worth an alarm.

Rates are turned round, so that above 1 is worse for every unit. Memory and energy are compared
without a drift: a slow minute does not change them in proportion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ifmmin.benchmarks.control import controls, pair_key
from ifmmin.benchmarks.drift import (
    Change,
    Drift,
    Noise,
    between_sessions,
    changed_contenders,
    estimate_drift,
)
from ifmmin.benchmarks.judge import FEWEST, TIMES, Compared, change_of, judge
from ifmmin.benchmarks.peers.choose import PEERS
from ifmmin.benchmarks.record import OURS, TWIN, YARDSTICK, Report, Row
from ifmmin.runtime.errors import InputError

Told = Literal["yardsticks", "yardsticks and peers", "peers", "own rows", "none"]
THRESHOLD = 0.05
PLAUSIBLE_DRIFT = 0.10
"""Without peers, our own rows tell the drift; when all slow down by more, that is no drift."""

_PEERS = frozenset(peer.name for peer in PEERS)
"""Who runs no code of ours; any other contender but us is a way of ours, and changes with it."""


@dataclass(frozen=True)
class Comparison:
    """What two reports say beside each other."""

    rows: tuple[Compared, ...]
    noise: Noise
    drift: Drift
    references: Told
    """Whose rows told the drift."""
    changed_peers: tuple[str, ...]
    """Peers that did not move with the others, and so told nothing."""
    only_before: tuple[Row, ...]
    only_after: tuple[Row, ...]
    few: tuple[Row, ...]
    """Rows with too few samples to be judged."""

    @property
    def slower(self) -> tuple[Compared, ...]:
        """Rows that need somebody's eyes."""
        return tuple(row for row in self.rows if row.verdict == "slower")

    @property
    def faster(self) -> tuple[Compared, ...]:
        """Rows that became better."""
        return tuple(row for row in self.rows if row.verdict == "faster")

    @property
    def all_slower(self) -> bool:
        """Everything slowed down by more than a drift does, and no peer says that it is one."""
        alone = self.references == "own rows"
        return alone and self.drift.value > math.log1p(PLAUSIBLE_DRIFT)


def compare(before: Report, after: Report, *, threshold: float = THRESHOLD) -> Comparison:
    """Match the rows of two runs and judge ours.

    threshold: the smallest relative slow-down that counts. Raises InputError where a report has two
    rows of one key or the reports have no row of ours in common.
    """
    first, second = _by_key(before, "first"), _by_key(after, "second")
    both = [(first[key], second[key]) for key in first if key in second]
    measured = [(b, a) for b, a in both if b.samples and a.samples]
    enough = [(b, a) for b, a in measured if _enough(b, a)]
    ours = [(b, a) for b, a in enough if b.contender == OURS]
    if not ours:
        raise InputError(
            f"the reports have no row of {OURS} in common that was measured {FEWEST} times; "
            "compare runs of the same scenarios, patterns and backends"
        )
    timed = [(b, a) for b, a in enough if b.unit in TIMES]
    peers = [(b.contender, change_of(b, a)) for b, a in timed if b.contender in _PEERS]
    changed = changed_contenders(peers)
    steady = [change for name, change in peers if name not in changed]
    yardsticks = {b.group: (b, a) for b, a in timed if b.contender == YARDSTICK}
    marks = [change_of(b, a) for b, a in yardsticks.values()]
    marked = frozenset(yardsticks)
    # Peers of a group with a yardstick would only blur what it says.
    steady = [change for change in steady if change.group not in marked]
    references = [*marks, *steady]
    noise = between_sessions(_control_changes(before, after), steady)
    own = [] if references else [change_of(b, a) for b, a in timed if b.contender in (OURS, TWIN)]
    drift = estimate_drift(references or own, noise, local=bool(references))
    twins = {pair_key(b): (b, a) for b, a in enough if b.contender == TWIN}
    return Comparison(
        rows=judge(ours, noise, drift, twins, threshold, yardsticks),
        noise=noise,
        drift=drift,
        references=_told_by(marks, steady, own),
        changed_peers=tuple(changed),
        only_before=tuple(row for key, row in first.items() if key not in second),
        only_after=tuple(row for key, row in second.items() if key not in first),
        few=tuple(b for b, a in measured if b.contender == OURS and not _enough(b, a)),
    )


def _told_by(marks: Sequence[Change], peers: Sequence[Change], own: Sequence[Change]) -> Told:
    if marks:
        return "yardsticks and peers" if peers else "yardsticks"
    return "peers" if peers else "own rows" if own else "none"


def _control_changes(*reports: Report) -> list[Change]:
    """The A/A controls of both runs, of what follows the speed of the machine."""
    return [
        change_of(ours, twin, paired=True)
        for report in reports
        for ours, twin in controls(report.rows)
        if ours.unit in TIMES and _enough(ours, twin)
    ]


def _enough(*rows: Row) -> bool:
    """Whether the medians of all these rows say something."""
    return all(len(row.samples) >= FEWEST and np.median(row.samples) > 0 for row in rows)


def _by_key(report: Report, which: str) -> dict[tuple[Any, ...], Row]:
    """Rows of us, our twin and peers, by key. Raises InputError for two rows of one key."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in report.rows:
        if row.contender not in _PEERS | {OURS, TWIN, YARDSTICK}:
            continue
        if row.key in found:
            raise InputError(
                f"the {which} report has two rows for {row.subject}; "
                "give a report as ifmmin-bench wrote it"
            )
        found[row.key] = row
    return found
