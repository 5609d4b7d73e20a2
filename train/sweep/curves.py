"""Curves: figures of networks at missing rates, with intervals, areas and paired differences.

Every network answers the same test parts under the same masks (`train/missing.py`). Answers are
pooled over folds; intervals are by bootstrap over utterances.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ifmmin.runtime.console import csv_row, markdown_table
from ifmmin.runtime.files import atomic_file

from ..data.corpus import Utterance
from ..evaluate import embed, labels_of, score_left
from ..metrics import shown
from ..missing import Manner, SlotDraws, frames_left, slots_left
from ..model.network import EmotionNetwork, pattern_index
from ..plots import curves as draw_curves
from ..plots import save
from .results import RESAMPLES, measured_mean, pairs, resampled_weights

FIGURES = ("ua", "wa", "f1")
POOLED, MEAN = "pooled", "mean of patterns"
"""Rows of a curve beside its patterns: all answers as one set; the mean over the patterns."""
TITLES = {
    "rate": "modality slots missing",
    "frames-random": "frames missing at random",
    "frames-run": "frames missing in one run",
}
"""What is missing, by the protocol's name."""
_MANNERS: Mapping[str, Manner] = {"frames-random": "random", "frames-run": "run"}
Array = NDArray[np.float64]
Unit = tuple[int, int]
"""A fold and a seed."""


@dataclass(frozen=True)
class Asked:
    """At what a network is measured."""

    rates: tuple[float, ...] = ()
    """Shares of modality slots."""
    frames: tuple[float, ...] = ()
    """Shares of frames, both at random and in one run."""
    seed: int = 0
    """Of the masks."""

    @property
    def protocols(self) -> dict[str, tuple[float, ...]]:
        """Rates by protocol, without those of which nothing was asked."""
        every = {"rate": self.rates, **dict.fromkeys(_MANNERS, self.frames)}
        return {name: rates for name, rates in every.items() if rates}


@dataclass(frozen=True)
class Masked:
    """A network's answers to N utterances at K rates."""

    names: tuple[str, ...]
    """The utterances."""
    true: NDArray[np.int64]
    """Their classes (N,)."""
    answered: NDArray[np.int64]
    """Classes (N, K); -1 where nothing is there."""
    left: NDArray[np.int64]
    """Positions (N, K) of what was there in the patterns; -1 where nothing is."""
    gone: NDArray[np.int64]
    """Slots or frames (K,) that are missing."""
    slots: int
    """Of how many."""
    classes: int
    patterns: tuple[str, ...]


def answer_masked(
    network: EmotionNetwork, utterances: Sequence[Utterance], asked: Asked
) -> dict[str, Masked]:
    """The network's answers by protocol."""
    found = {}
    for protocol, rates in asked.protocols.items():
        if protocol == "rate":
            views = _at_rates(network, utterances, rates, asked.seed)
        else:
            views = _without_frames(network, utterances, rates, _MANNERS[protocol], asked.seed)
        answered, left, gone, slots = zip(*views, strict=True)
        found[protocol] = Masked(
            tuple(u.name for u in utterances), labels_of(utterances), np.stack(answered, axis=1),
            np.stack(left, axis=1), np.array(gone), slots[0], len(network.config.labels),
            tuple(map(str, network.config.patterns)),
        )  # fmt: skip
    return found


_View = tuple[NDArray[np.int64], NDArray[np.int64], int, int]
"""Answers (N,) at one rate, patterns left (N,), what is missing, of how much."""


def _at_rates(
    network: EmotionNetwork, utterances: Sequence[Utterance], rates: Sequence[float], seed: int
) -> Iterator[_View]:
    embedded = embed(network, utterances)
    present = embedded.present.numpy()
    slots = SlotDraws.of_names([u.name for u in utterances], network.modalities, seed)
    for rate in rates:
        left = slots_left(present, rate, slots)
        answers = score_left(network, embedded, torch.from_numpy(left))
        yield *_answers(answers.rows, answers.logits, left), int((~left).sum()), left.size


def _without_frames(
    network: EmotionNetwork, utterances: Sequence[Utterance], rates: Sequence[float],
    manner: Manner, seed: int,
) -> Iterator[_View]:  # fmt: skip
    for rate in rates:
        gone = frames = 0
        masked = []
        for one in utterances:
            features = {}
            for modality in network.modalities:
                if modality in one.features and len(one.features[modality]):
                    raw = one.features[modality]
                    left = frames_left(
                        len(raw), rate, manner, name=one.name, modality=modality, seed=seed
                    )
                    features[modality] = np.where(left[:, None], raw, np.zeros((), raw.dtype))
                    gone, frames = gone + int((~left).sum()), frames + len(raw)
            masked.append(replace(one, features=features))
        embedded = embed(network, masked)
        answers = score_left(network, embedded, embedded.present)
        present = embedded.present.numpy()
        yield *_answers(answers.rows, answers.logits, present), gone, frames


def _answers(
    rows: NDArray[np.int64], logits: NDArray[np.floating], left: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    answered, patterns = (np.full(len(left), -1, dtype=np.int64) for _ in range(2))
    answered[rows] = logits.argmax(axis=1)
    patterns[rows] = pattern_index(torch.from_numpy(left[rows])).numpy()
    return answered, patterns


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval; NaN where there was nothing to measure."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, drawn: Array) -> Estimate:
        """The value with the interval of its resamples (R,)."""
        known = drawn[~np.isnan(drawn)]
        if math.isnan(value) or not len(known):
            return cls(value, math.nan, math.nan)
        low, high = np.quantile(known, [0.025, 0.975]).tolist()
        return cls(value, low, high)


@dataclass(frozen=True)
class Point:
    """A curve at one rate."""

    asked: float
    realised: float
    """Share that is missing in truth: a whole number of slots, within what can be."""
    utterances: dict[str, float]
    """By row: test utterances of all folds."""
    figures: dict[str, dict[str, Estimate]]
    """Estimates by row and figure."""

    @property
    def name(self) -> str:
        """The rate in tables, with what it runs at where that is another."""
        same = abs(self.asked - self.realised) <= _SAME
        return f"{self.asked:g}" + ("" if same else f" (runs at {self.realised:.3f})")


_SAME = 0.005


@dataclass(frozen=True)
class Curve:
    """The figures of one entry under one protocol."""

    protocol: str
    entry: str
    units: int
    classes: int
    points: list[Point]
    areas: dict[str, Estimate]
    """Area under the pooled figure over the realised rate, over the width: the mean height. NaN
    where there are not two different rates."""


@dataclass(frozen=True)
class AreaDifference:
    """Area of `first` minus that of `second`, on the same utterances, masks, folds and seeds."""

    protocol: str
    first: str
    second: str
    figures: dict[str, Estimate]


@dataclass(frozen=True)
class Curves:
    """All curves that were asked for."""

    asked: Asked
    curves: list[Curve]
    """By setting, protocol and entry."""
    differences: list[AreaDifference]

    def of(self, protocol: str) -> list[Curve]:
        """Those of a protocol, by entry."""
        return [curve for curve in self.curves if curve.protocol == protocol]


Answered = Mapping[str, Mapping[Unit, Mapping[str, Masked]]]
"""What `answer_masked` gave, by entry and unit."""


def measure_curves(answered: Answered, asked: Asked, *, resamples: int = RESAMPLES) -> Curves:
    """Curves of entries that have answers, and the paired differences of their areas."""
    curves, found = [], []
    for protocol, rates in asked.protocols.items():
        drawn: dict[str, dict[str, Array]] = {}
        for entry, units in answered.items():
            masked = {unit: by_protocol[protocol] for unit, by_protocol in units.items()}
            curve, areas = _curve(protocol, entry, masked, rates, resamples)
            curves.append(curve)
            drawn[entry] = areas
        values = {curve.entry: curve.areas for curve in curves if curve.protocol == protocol}
        for first, second in pairs(list(answered)):
            if not _comparable(answered[first], answered[second], protocol):
                continue
            figures = {
                name: Estimate.of(
                    values[first][name].value - values[second][name].value,
                    drawn[first][name] - drawn[second][name],
                )
                for name in FIGURES
            }
            found.append(AreaDifference(protocol, first, second, figures))
    return Curves(asked, curves, found)


def _comparable(
    first: Mapping[Unit, Mapping[str, Masked]],
    second: Mapping[Unit, Mapping[str, Masked]],
    protocol: str,
) -> bool:
    """Whether both have the same units, tested on the same utterances under the same masks."""
    return first.keys() == second.keys() and all(
        mine[protocol].names == second[unit][protocol].names
        and np.array_equal(mine[protocol].true, second[unit][protocol].true)
        and np.array_equal(mine[protocol].left, second[unit][protocol].left)
        and np.array_equal(mine[protocol].gone, second[unit][protocol].gone)
        for unit, mine in first.items()
    )


def _curve(
    protocol: str, entry: str, units: Mapping[Unit, Masked], rates: Sequence[float], resamples: int
) -> tuple[Curve, dict[str, Array]]:
    """A curve, and its areas (R,) in the resamples by figure."""
    some = next(iter(units.values()))
    folds = sorted({fold for fold, _ in units})
    by_fold = [[masked for (f, _), masked in units.items() if f == fold] for fold in folds]
    slots = sum(same[0].slots for same in by_fold)
    gone = np.sum([same[0].gone for same in by_fold], axis=0)
    rows = (POOLED, MEAN, *some.patterns)
    points, heights, drawn_heights = [], [], []
    for index, rate in enumerate(rates):
        counts = np.concatenate([_counts(same, index) for same in by_fold])
        value = _figures(counts.sum(axis=0, keepdims=True))
        parts = [
            _figures(np.tensordot(weights, counts, axes=1))
            for weights in resampled_weights(len(counts), resamples, 0)
        ]
        drawn = {name: np.concatenate([part[name] for part in parts]) for name in FIGURES}
        numbers = counts[:, :, 1].sum(axis=(0, 2))  # of each row, how many true classes count
        utterances = dict(zip(rows, [numbers[0], numbers[0], *numbers[1:]], strict=True))
        figures = {
            row: {
                name: Estimate.of(float(value[name][0, at]), drawn[name][:, at]) for name in FIGURES
            }
            for at, row in enumerate(rows)
        }
        points.append(Point(rate, float(gone[index] / max(1, slots)), utterances, figures))
        heights.append({name: value[name][:, 0] for name in FIGURES})
        drawn_heights.append({name: drawn[name][:, 0] for name in FIGURES})
    realised = np.array([point.realised for point in points])
    areas = {
        name: _area(realised, np.stack([one[name] for one in drawn_heights], axis=1))
        for name in FIGURES
    }
    estimates = {
        name: Estimate.of(
            float(_area(realised, np.stack([one[name] for one in heights], axis=1))[0]), areas[name]
        )
        for name in FIGURES
    }
    return Curve(protocol, entry, len(units), some.classes, points, estimates), areas


def _counts(same: Sequence[Masked], index: int) -> Array:
    """Of utterances of a fold: right answers, true classes and answers by class (N, 1 + P, 3, C),
    mean over its seeds; the first row is of all, the others of those left with each pattern."""
    first = same[0]
    classes = np.eye(first.classes)
    seen = first.left[:, index] >= 0
    true = classes[first.true] * seen[:, None]
    answers = [classes[one.answered[:, index]] * seen[:, None] for one in same]
    answered = np.mean(answers, axis=0)
    counts = np.stack([true * answered, true, answered], axis=1)
    own = first.left[:, index, None] == np.arange(len(first.patterns))
    member = np.concatenate([seen[:, None], own], axis=1).astype(np.float64)
    return np.asarray(counts[:, None] * member[:, :, None, None])


def _figures(counts: Array) -> dict[str, Array]:
    """Figures (R, 2 + P) of counts (R, 1 + P, 3, C): pooled, mean over the patterns, patterns."""
    hits, true, answered = np.moveaxis(counts, 2, 0)
    either = true + answered
    with np.errstate(invalid="ignore", divide="ignore"):
        figures = {
            "ua": measured_mean(hits / true, 2),
            "wa": hits.sum(axis=2) / true.sum(axis=2),
            "f1": measured_mean(2 * hits / either, 2),
        }
    return {
        name: np.concatenate(
            [found[:, :1], measured_mean(found[:, 1:], 1)[:, None], found[:, 1:]], axis=1
        )
        for name, found in figures.items()
    }


def _area(realised: Array, heights: Array) -> Array:
    """Mean heights (R,) of curves (R, K) by the trapezoidal rule; NaN without any width."""
    width = realised[-1] - realised[0]
    if width <= 0:
        return np.full(len(heights), np.nan)
    steps = np.diff(realised)
    middles = (heights[:, 1:] + heights[:, :-1]) / 2
    return np.asarray(middles @ steps / width)


CURVES_NAME, CSV_NAME, AREAS_NAME = "missing.md", "missing.csv", "areas.csv"
_ABOUT = f"""\
Every entry answers the same test utterances with the same things missing. **Pooled**: all answers
at a rate as one set, over folds; UA is the mean recall over classes, WA the share of right answers,
F1 macro F1, of counts that are means over seeds. **Per pattern**: the utterances that were left
with that pattern alone, - where there is none; **mean of patterns**: over those that have some.
(Another average is that of papers' tables, every utterance under each of the six patterns.) In
brackets: 95% interval by bootstrap over utterances ({RESAMPLES:,} resamples, shared by rates and
entries); what other masks, seeds or speakers would give is not in it. **Area**: under the pooled
figure over the rate that was realised, over the width, which makes it a mean; - where there are not
two rates. *: the interval of a difference is without zero."""
_PROTOCOLS = {
    "rate": "A share of all modality slots (utterances x modalities) of the test part is absent, "
    "what is lacking by nature among them; every utterance keeps one modality. A rate past what "
    "can be missing runs at that.",
    "frames-random": "A share of the frames or tokens of every modality that is there is zero, "
    "each apart; one is left.",
    "frames-run": "A share of the frames or tokens of every modality that is there is zero, all in "
    "one run; one is left.",
}


def interval(found: Estimate) -> str:
    """An estimate in a table."""
    if math.isnan(found.value):
        return "-"
    return f"{found.value:.3f} [{shown(found.low)}, {shown(found.high)}]"


def render(curves: Curves, lead: str) -> str:
    """missing.md; `lead`: the figure of the tables per pattern."""
    sections = [f"# What is missing\n\n{_ABOUT}\n\nSeed of the masks: {curves.asked.seed}."]
    for protocol in curves.asked.protocols:
        some = curves.of(protocol)
        sections.append(f"## {TITLES[protocol].capitalize()}\n\n{_PROTOCOLS[protocol]}")
        headers = ["entry", *(point.name for point in some[0].points), "area"]
        for name in sorted(FIGURES, key=lambda figure: figure != lead):
            rows = [
                [
                    curve.entry,
                    *(interval(point.figures[POOLED][name]) for point in curve.points),
                    interval(curve.areas[name]),
                ]
                for curve in some
            ]
            sections.append(f"### {name.upper()}, pooled\n\n{markdown_table(headers, rows)}")
        sections += _differences(curves, protocol)
        rows = [
            [curve.entry, row, *(interval(point.figures[row][lead]) for point in curve.points)]
            for curve in some
            for row in curve.points[0].figures
            if row != POOLED
        ]
        table = markdown_table(["entry", "left", *headers[1:-1]], rows)
        sections.append(f"### {lead.upper()}, per pattern\n\n{table}")
    return "\n\n".join(sections) + "\n"


def _differences(curves: Curves, protocol: str) -> list[str]:
    rows = [
        [
            f"{one.first} - {one.second}",
            *(
                interval(found) + ("*" if found.low > 0 or found.high < 0 else " ")
                for found in one.figures.values()
            ),
        ]
        for one in curves.differences
        if one.protocol == protocol
    ]
    headers = ["entries", *(name.upper() for name in FIGURES)]
    return [f"### Differences of areas\n\n{markdown_table(headers, rows)}"] if rows else []


def write_curves(folder: Path, curves: Curves, lead: str) -> None:
    """Write missing.md, missing.csv, areas.csv and a plot per protocol of the figure `lead` into
    `folder`, each whole."""
    for protocol in curves.asked.protocols:
        some = curves.of(protocol)
        lines = {
            curve.entry: [(p.realised, *_numbers(p.figures[POOLED][lead])) for p in curve.points]
            for curve in some
        }
        figure = draw_curves(
            lines, f"share of {TITLES[protocol]}",
            lead.upper(), 1 / some[0].classes,
        )  # fmt: skip
        with atomic_file(folder / "plots" / f"missing-{protocol}.png") as part:
            save(figure, part)
    rows: list[Sequence[object]] = [
        ("entry", "protocol", "asked", "realised", "left", "utterances", "figure", *_COLUMNS)
    ]
    areas: list[Sequence[object]] = [("first", "second", "protocol", "figure", *_COLUMNS)]
    for curve in curves.curves:
        where = curve.entry, curve.protocol
        for point in curve.points:
            for row, figures in point.figures.items():
                about = *where, point.asked, round(point.realised, 6), row
                rows += [
                    (*about, round(point.utterances[row]), name, *_cells(found))
                    for name, found in figures.items()
                ]
        areas += [
            (curve.entry, "", curve.protocol, name, *_cells(found))
            for name, found in curve.areas.items()
        ]
    for one in curves.differences:
        areas += [
            (one.first, one.second, one.protocol, name, *_cells(found))
            for name, found in one.figures.items()
        ]
    for name, table in ((CSV_NAME, rows), (AREAS_NAME, areas)):
        with atomic_file(folder / name) as part:
            part.write_text("".join(csv_row(row) + "\n" for row in table), encoding="utf-8")
    with atomic_file(folder / CURVES_NAME) as part:
        part.write_text(render(curves, lead), encoding="utf-8")


_COLUMNS = ("value", "low", "high")


def _numbers(found: Estimate) -> tuple[float, float, float]:
    return found.value, found.low, found.high


def _cells(found: Estimate) -> tuple[float | str, ...]:
    return tuple("" if math.isnan(number) else round(number, 6) for number in _numbers(found))
