"""Intervals hold what they promise, and the A/A control is found."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ifmmin.benchmarks.record import OURS, TWIN, Row, controls, measured_noise, spread
from ifmmin.benchmarks.statistics import (
    Interval,
    Ratio,
    no_difference,
    quantile_interval,
    ratio_of_medians,
    summarise,
)

Rng = np.random.Generator


def _times(rng: Rng, count: int, middle: float = 1.0, jitter: float = 0.08) -> np.ndarray:
    """Log-normal, one in a hundred several times as long."""
    times = middle * rng.lognormal(0.0, jitter, count)
    times[rng.random(count) < 0.01] *= 4.0
    return times


def test_a_summary_has_the_figures_of_its_samples() -> None:
    figures = summarise([float(value) for value in range(1, 102)])
    assert (figures.count, figures.mean, figures.max) == (101, 51.0, 101.0)
    assert [figures.percentile(p) for p in (50, 90, 95, 99)] == [51.0, 91.0, 96.0, 100.0]
    assert figures.interval == Interval(41.0, 61.0)
    assert summarise([3.0]).interval is None


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("count", [6, 7, 20, 101, 1000, 20000])
def test_order_statistics_are_those_of_the_binomial(count: int, share: float) -> None:
    binom = pytest.importorskip("scipy.stats").binom
    found = quantile_interval(np.arange(1.0, count + 1), share)
    low, high = int(binom.ppf(0.025, count, share)), int(binom.ppf(0.975, count, share)) + 1
    if low < 1 or high > count:
        assert found is None
        return
    assert found == Interval(low, high)
    covered = binom.cdf(high - 1, count, share) - binom.cdf(low - 1, count, share)
    inner = binom.cdf(high - 2, count, share) - binom.cdf(low, count, share)
    assert covered >= 0.95 > inner


def test_the_interval_of_a_median_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    drawn = [quantile_interval(_times(rng, 60, jitter=0.5)) for _ in range(600)]
    truth = float(np.median(_times(rng, 1_000_001, jitter=0.5)))
    hits = [i is not None and i.low <= truth <= i.high for i in drawn]
    assert 0.93 <= np.mean(hits) <= 0.99
    wrong = [i is not None and i.low <= 1.5 * truth <= i.high for i in drawn]
    assert np.mean(wrong) < 0.1


def test_the_interval_of_a_ratio_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    drawn = [
        ratio_of_medians(_times(rng, 80, 1.3), _times(rng, 80), paired=False) for _ in range(300)
    ]
    hits = [ratio is not None and ratio.low <= 1.3 <= ratio.high for ratio in drawn]
    assert 0.92 <= np.mean(hits) <= 0.99
    assert not any(ratio is None or ratio.low <= 1.0 for ratio in drawn)


def _width(above: np.ndarray, below: np.ndarray, *, paired: bool = False) -> float:
    ratio = ratio_of_medians(above, below, paired=paired)
    assert ratio is not None
    return math.log(ratio.high / ratio.low)


def test_what_slowed_both_rows_of_a_round_cancels() -> None:
    rng = np.random.default_rng(2)
    shared = np.exp(0.3 * np.sin(np.linspace(0, 20, 200)))
    ours, theirs = _times(rng, 200, 1.1) * shared, _times(rng, 200) * shared
    assert _width(ours, theirs, paired=True) < 0.7 * _width(ours, theirs)
    together = ratio_of_medians(ours, theirs, paired=True)
    assert together is not None
    assert together.certain


def test_slow_rounds_that_follow_each_other_make_an_interval_wider() -> None:
    rng = np.random.default_rng(3)
    steps = np.repeat(rng.normal(0, 0.2, 40), 5)
    wandering, steady = np.exp(steps), np.exp(rng.permutation(steps))
    other = _times(rng, 200)
    assert _width(wandering, other) > 1.2 * _width(steady, other)


def test_a_ratio_is_the_same_every_time_and_needs_something_to_divide_by() -> None:
    rng = np.random.default_rng(4)
    ours, theirs = _times(rng, 30), _times(rng, 40)
    found = [ratio_of_medians(ours, theirs, paired=True) for _ in range(2)]
    assert found[0] == found[1]
    assert ratio_of_medians(ours, np.zeros(9), paired=False) is None
    assert ratio_of_medians([0.0, 0.0, 1.0], theirs, paired=False) is None


@pytest.mark.parametrize(
    ("ratio", "noise", "same"),
    [
        (Ratio(1.2, 0.99, 1.4), 0.0, True),
        (Ratio(1.2, 1.1, 1.3), 0.04, False),
        (Ratio(1.03, 1.02, 1.04), 0.04, True),
        (Ratio(1 / 1.03, 0.96, 0.98), 0.04, True),
        (Ratio(1 / 1.05, 0.94, 0.96), 0.04, False),
        (Ratio(1.03, 1.02, 1.04), None, False),
        (None, 0.0, True),
    ],
)
def test_a_difference_is_beyond_its_interval_and_beyond_the_control(
    ratio: Ratio | None, noise: float | None, same: bool
) -> None:
    assert no_difference(ratio, noise) is same


def _row(contender: str, pattern: str, *samples: float, **more: str) -> Row:
    return Row(
        scenario="latency", contender=contender, pattern=pattern, samples=samples,
        precision=more.get("precision", "fp32"),
    )  # fmt: skip


def test_the_control_is_the_twin_of_the_same_graph() -> None:
    rows = [
        _row(OURS, "a", 1.0), _row(TWIN, "a", 1.02), _row(OURS, "a", 2.0, precision="int8"),
        _row(TWIN, "a", 1.6, precision="int8"), _row(OURS, "v", 1.0), _row(TWIN, "t", 9.0),
        _row("monolith", "a", 5.0),
    ]  # fmt: skip
    assert controls(rows) == [(rows[0], rows[1]), (rows[2], rows[3])]
    noise = measured_noise(rows)
    assert noise == {"latency": {"a": 0.8}}
    assert spread(noise, "latency") == pytest.approx(0.25)
    assert spread(noise, "stream") is None
    assert math.isclose(spread({"latency": {"a": 1.0}}, "latency") or 0.0, 0.0)
