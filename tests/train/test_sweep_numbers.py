"""The numbers of a sweep against plain computations."""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import recall_score

from ifmmin.runtime.modality import ALL_PATTERNS
from ifmmin.train.sweeps.figures import COLUMNS, spreads
from ifmmin.train.sweeps.paired import differences, pairs
from ifmmin.train.sweeps.plan import Unit
from ifmmin.train.sweeps.results import Answers, Result

LABELS = ("angry", "happy", "neutral", "sad")
Integers = NDArray[np.int64]


def _result(entry: str, fold: int, seed: int, size: int = 30, skill: float = 0.5) -> Result:
    corpus = np.random.default_rng(fold)
    true = corpus.integers(4, size=size)
    absent = corpus.random((size, 7)) < 0.1
    absent[:, -1] = False
    draws = np.random.default_rng([ord(entry[0]), fold, seed])
    answered = draws.integers(4, size=(size, 7))
    answered = np.where(draws.random((size, 7)) < skill, true[:, None], answered)
    answered = np.where(absent, -1, answered)
    test = {str(p): {"ua": float(draws.random())} for p in ALL_PATTERNS}
    names = tuple(f"u{i}" for i in range(size))
    return Result(
        Unit(entry, fold, seed), {"test": test}, [], LABELS, Answers(names, true, answered), Path()
    )


def _recall(true: Integers, answered: Integers) -> float:
    some = answered >= 0
    labels = np.unique(true[some])
    return float(recall_score(true[some], answered[some], average="macro", labels=labels))


def _plain(results: list[Result], rows: Integers) -> list[float]:
    """UA by column when the pooled utterances are `rows`, one seed after the other."""
    by_seed = []
    for seed in sorted({r.unit.seed for r in results}):
        units = sorted((r for r in results if r.unit.seed == seed), key=lambda r: r.unit.fold)
        true = np.concatenate([r.answers.true for r in units])[rows]
        answered = np.concatenate([r.answers.answered for r in units])[rows]
        figures = [_recall(true, answered[:, column]) for column in range(7)]
        by_seed.append([*figures, statistics.fmean(figures[:6])])
    return [statistics.fmean(column) for column in zip(*by_seed, strict=True)]


def test_differences_and_their_errors_equal_a_plain_loop() -> None:
    grid = [(fold, seed) for fold in (1, 2) for seed in (0, 1)]
    first = [_result("first", *unit, skill=0.6) for unit in grid]
    second = [_result("second", *unit) for unit in grid]
    (found,) = differences({"first": first, "second": second}, resamples=25, seed=3)
    every = np.arange(60)
    value = np.subtract(_plain(first, every), _plain(second, every))
    drawn = [
        np.subtract(_plain(first, rows), _plain(second, rows))
        for rows in np.random.default_rng(3).integers(60, size=(25, 60))
    ]
    error = np.std(drawn, axis=0, ddof=1)
    assert (error > 0.01).all()
    for column, one, other in zip(COLUMNS, value, error, strict=True):
        assert found.value[column] == pytest.approx(one, abs=1e-12)
        assert found.error[column] == pytest.approx(other, abs=1e-12)
        assert found.stands_out(column) == (abs(one) > 2 * other)
    assert found.units == 4


def test_the_same_entry_differs_by_nothing_and_a_better_one_stands_out() -> None:
    some = [_result("same", 1, seed, 200) for seed in (0, 1)]
    better = [_result("better", 1, seed, 200, skill=0.9) for seed in (0, 1)]
    same, less, _ = differences({"same": some, "again": some, "better": better}, resamples=200)
    for column in COLUMNS:
        assert same.value[column] == same.error[column] == 0
        assert not same.stands_out(column)
        assert less.value[column] < 0
        assert less.stands_out(column)


def test_only_common_units_are_compared() -> None:
    first = [_result("first", fold, seed) for fold in (1, 2) for seed in (0, 1)]
    second = [_result("second", fold, 1) for fold in (1, 2, 3)]
    elsewhere = [_result("third", 9, 0)]
    other = [_result("fourth", 1, 0, size=31)]
    (found,) = differences({"f": first, "s": second, "e": elsewhere, "o": other}, resamples=50)
    assert (found.first, found.second, found.units) == ("f", "s", 2)
    common = [r for r in first if r.unit.seed == 1]
    value = np.subtract(_plain(common, np.arange(60)), _plain(second[:2], np.arange(60)))
    assert list(found.value.values()) == pytest.approx(value.tolist())


def test_many_entries_are_compared_with_the_first() -> None:
    assert len(pairs("abcd")) == 6
    assert pairs("abcde") == [("a", other) for other in "bcde"]
    assert pairs("a") == []


def test_spreads_are_over_seeds_and_over_units() -> None:
    results = [_result("one", fold, seed) for fold in (1, 2, 3) for seed in (0, 1)]
    torn = [*results, _result("one", 1, 2)]  # seed 2 has one fold of three
    for units, count in ((results, 6), (torn, 7)):
        found = spreads(units, "ua")
        for column, name in enumerate([str(p) for p in ALL_PATTERNS]):
            figures = [r.metrics["test"][name]["ua"] for r in units]
            by_seed = [
                statistics.fmean(r.metrics["test"][name]["ua"] for r in units if r.unit.seed == s)
                for s in (0, 1)
            ]
            spread = found[COLUMNS[column]]
            assert spread.mean == pytest.approx(statistics.fmean(figures))
            assert spread.over_units == pytest.approx(statistics.stdev(figures))
            assert spread.over_seeds == spread.shown == pytest.approx(statistics.stdev(by_seed))
            assert spread.units == count
        six = [statistics.fmean(r.metrics["test"][str(p)]["ua"] for p in ALL_PATTERNS[:6])
               for r in units]  # fmt: skip
        assert found["mean of six"].mean == pytest.approx(statistics.fmean(six))
    single = spreads(results[:1], "ua")["a"]
    assert math.isnan(single.over_seeds)
    assert math.isnan(single.over_units)


def test_a_corpus_of_the_size_of_iemocap_takes_seconds() -> None:
    entries = {
        name: [_result(name, fold, seed, 553) for fold in range(1, 11) for seed in (0, 1)]
        for name in "abcdefghij"
    }
    start = time.process_time()
    found = differences(entries)
    assert len(found) == 9
    assert time.process_time() - start < 60
