"""How two runs differ where nothing was changed: the machine's drift, and chance between sessions.

Yardsticks and peers run code that is not ours, so what happens to them from one run to the next
happened to the machine. A yardstick is of our graphs' kind and size; where a group has one, it
alone is asked. With logarithms of ratios (after / before) as d:

    d of an unchanged row = drift of the run + drift while its group was measured + its session

The run's drift is the median of these references. A group (rows timed in the same rounds) has its
own drift besides, as neighbours of a shared machine come and go; its references tell of it, as far
as they are believed: the mean of the group is drawn towards the run's drift by the share of its
variance that chance explains (components by moments, as DerSimonian and Laird, 1986). What the
sessions contribute is told by the A/A controls of both runs and by how peers of one group differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ASSUMED_NOISE = 0.03
"""Standard deviation between two sessions of a graph where no row tells it: 3 to 5 % were seen."""
_SESSIONS = 0.01
"""The same where it is usual; it only balances weights."""
_FEWEST_GROUPS = 3
"""Of fewer groups nobody knows how much their drifts differ."""
RESPONSE = 0.25
"""Standard deviation of how strongly a row follows the drift, around 1. A machine that slows down
does not slow all alike: what waits for memory feels a slower clock less. On a shared machine that
lost a third of its speed, unchanged rows were seen to lose 1.4 times what peers did."""
ALIKE = 0.1
"""The same of how strongly a row follows a yardstick, which is of its own kind."""
_USUAL, _USUAL_DEGREES = 0.016, 4.0
"""Noise between runs of rows that ask three sessions in turn, as seen on a shared x86 machine,
and of how many differences that is worth."""
_CHANGED = 0.1
"""Distance from the other peers, in the median of groups, at which one is taken for changed."""


@dataclass(frozen=True)
class Change:
    """The logarithm of after / before of one row, in cost: above 0 is worse."""

    group: tuple[Any, ...]
    value: float
    variance: float
    """Of the value, by the samples alone."""


@dataclass(frozen=True)
class Noise:
    """Between two sessions of one graph, beyond what the samples tell."""

    variance: float
    """Of the logarithm of their ratio."""
    degrees: float
    """Differences from which it was estimated, as if all were equally sure; infinite: assumed."""

    def tempered(self) -> Noise:
        """With what is usual where rows have several sessions: few controls tell little of it."""
        if math.isinf(self.degrees):
            return self
        degrees = self.degrees + _USUAL_DEGREES
        told = self.degrees * self.variance + _USUAL_DEGREES * _USUAL**2
        return Noise(told / degrees, degrees)


@dataclass(frozen=True)
class Drift:
    """What happened to unchanged rows."""

    value: float
    """Of the whole run: above 0, the machine was slower the second time."""
    variance: float
    """Of that value."""
    between: float
    """Variance of the groups' own drifts."""
    doubt: float
    """Standard error of that variance."""
    groups: Mapping[tuple[Any, ...], tuple[float, float]]
    """Drift and its variance of the groups that have references of their own."""

    def of(self, group: tuple[Any, ...]) -> tuple[float, float]:
        """Drift of a group and its variance."""
        elsewhere = self.variance + self.between + self.doubt
        return self.groups.get(group, (self.value, elsewhere))


NO_DRIFT = Drift(0.0, 0.0, 0.0, 0.0, {})


def changed_contenders(peers: Iterable[tuple[str, Change]]) -> list[str]:
    """Which contenders did not move with the others of their groups: their own code changed.

    Such a one is no reference. The farthest goes first, and the others are looked at again, for it
    pulled at their comparison too. Of two contenders nobody knows which it was.
    """
    groups: dict[tuple[Any, ...], dict[str, float]] = {}
    for name, change in peers:
        groups.setdefault(change.group, {})[name] = change.value
    changed: list[str] = []
    while True:
        gaps: dict[str, list[float]] = {}
        for values in groups.values():
            for name, value in values.items():
                others = [other for who, other in values.items() if who != name]
                if len(others) > 1:
                    gaps.setdefault(name, []).append(value - float(np.median(others)))
        away = {name: abs(float(np.median(found))) for name, found in gaps.items()}
        farthest = max(away, key=away.__getitem__, default=None)
        if farthest is None or away[farthest] < _CHANGED:
            return changed
        changed.append(farthest)
        for values in groups.values():
            values.pop(farthest, None)


def between_sessions(controls: Iterable[Change], peers: Iterable[Change]) -> Noise:
    """What sessions of one graph differ by, from A/A controls (twin / ours) and unchanged peers.

    Squares of differences beyond what the samples explain, averaged with the weight of how well
    each is known: rows of few samples say little of sessions.
    """
    # Each is a weight, a sum of squares beyond the samples' own, and its degrees of freedom.
    found = [(_weight(one.variance), one.value**2 - one.variance, 1) for one in controls]
    for members in _groups(peers).values():
        values = np.array([member.value for member in members])
        own = float(np.mean([member.variance for member in members]))
        # Their mean takes one degree; what they share, the group's drift, goes with it.
        degrees = len(members) - 1
        square = float(((values - values.mean()) ** 2).sum()) - degrees * own
        found.append((_weight(own), square, degrees))
    known = sum(weight * degrees for weight, _, degrees in found)
    if known == 0.0:
        return Noise(ASSUMED_NOISE**2, math.inf)
    variance = sum(weight * square for weight, square, _ in found) / known
    counted = known**2 / sum(weight**2 * degrees for weight, _, degrees in found)
    return Noise(max(0.0, variance), counted)


def estimate_drift(references: Sequence[Change], noise: Noise, *, local: bool) -> Drift:
    """The drift by rows whose code did not change.

    local: groups may have drifts of their own. Not where the references are our own rows: a change
    of one graph would be taken for the drift of its group.
    """
    if not references:
        return NO_DRIFT
    value = float(np.median([reference.value for reference in references]))
    groups = {
        group: (
            float(np.mean([member.value for member in members])),
            sum(member.variance + noise.variance for member in members) / len(members) ** 2,
        )
        for group, members in _groups(references).items()
    }
    between, doubt = _between_groups(list(groups.values()), value)
    # A median is pi / 2 times as uncertain as a mean.
    independent = [own + between for _, own in groups.values()]
    variance = np.pi / 2 * sum(independent) / len(independent) ** 2
    if not local:
        return Drift(value, float(variance), between, doubt, {})
    drawn = {}
    for group, (mean, own) in groups.items():
        belief = between / (between + own) if between > 0 else 0.0
        drawn[group] = (value + belief * (mean - value), belief * own + (1 - belief) * variance)
    return Drift(value, float(variance), between, doubt, drawn)


def _between_groups(groups: Sequence[tuple[float, float]], value: float) -> tuple[float, float]:
    """Variance of the groups' own drifts, and its standard error. groups: mean and its variance."""
    if len(groups) < _FEWEST_GROUPS:
        return ASSUMED_NOISE**2, 0.0
    weights = np.array([_weight(own) for _, own in groups])
    own = float(np.average([own for _, own in groups], weights=weights))
    square = float(np.average([(mean - value) ** 2 for mean, _ in groups], weights=weights))
    counted = float(weights.sum() ** 2 / (weights**2).sum())
    between = max(0.0, square - own)
    return between, math.sqrt(2.0 / counted) * (between + own)


def _weight(own: float) -> float:
    """Of a square whose value has the variance `own` beside that of sessions."""
    return 1.0 / (own + _SESSIONS**2) ** 2


def _groups(changes: Iterable[Change]) -> dict[tuple[Any, ...], list[Change]]:
    found: dict[tuple[Any, ...], list[Change]] = {}
    for change in changes:
        found.setdefault(change.group, []).append(change)
    return found
