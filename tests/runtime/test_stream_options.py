"""What a stream may be told, and answers that do not flicker."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifmmin.runtime import InputError, Smoothing, StreamOptions
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.stream.options import Smoother
from ifmmin.runtime.stream.window import Timeline


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window": 0.0}, "window: got 0.0, wanted a number of seconds above 0"),
        ({"window": float("nan")}, "window: got nan"),
        ({"hop": 1.0}, "hop without a window"),
        ({"window": 3.0, "hop": 2.0}, "3 is not a whole number of hops of 2 seconds"),
        ({"window": 1.0, "hop": 2.0}, "not a whole number of hops"),
        ({"late": "never"}, "late: got 'never', wanted refuse, skip, append"),
        ({"stale_after": {"v": 0.0}}, "stale_after of v: got 0.0"),
        ({"stale_after": {"x": 1.0}}, "unknown modality 'x'"),
    ],
)
def test_a_senseless_option_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        StreamOptions(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"half_life": -1.0}, "smoothing half_life: got -1.0, wanted 0 or more"),
        ({"half_life": float("inf")}, "half_life: got inf"),
        ({"margin": 1.0}, "margin: got 1.0, wanted 0 to 1"),
        ({"patience": 0}, "patience: got 0, wanted 1 or more"),
    ],
)
def test_senseless_smoothing_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Smoothing(**options)


def test_a_window_is_divided_into_lanes() -> None:
    assert StreamOptions(window=3.0, hop=0.1).lanes == 30
    assert StreamOptions(window=2.0).lanes == 4
    assert StreamOptions().lanes == 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.sampled_from([0.1, 0.35, 1.0]))
def test_hops_are_the_same_however_frames_are_pushed(chunks: list[int], hop: float) -> None:
    timeline, total = Timeline(Modality.A, hop, 10.0), sum(chunks)
    frames = np.arange(total, dtype=np.float32)[:, None]
    whole = timeline.cut(frames, 0, None, 0)
    assert [s.hop for s in whole] == sorted({s.hop for s in whole})
    pieces, start, reached = [], 0, 0
    for count in chunks:
        pieces += timeline.cut(frames[start : start + count], start, None, reached)
        start, reached = start + count, pieces[-1].hop

    def hops(segments: Any) -> list[tuple[int, float]]:
        return [(s.hop, float(x)) for s in segments for x in s.frames[:, 0]]

    assert hops(pieces) == hops(whole)
    assert [float(x) for s in whole for x in s.frames[:, 0]] == list(range(total))
    ends = timeline.cut(frames, 0, (total - 1) / 10.0, 0)
    assert hops(ends) == hops(whole)


def _seen(smoother: Smoother, rows: Any, times: Any = None) -> list[tuple[int, float]]:
    found = []
    for number, row in enumerate(rows):
        probabilities = np.array([row, 1.0 - row], dtype=np.float32)
        label, smoothed = smoother(probabilities, None if times is None else times[number])
        assert smoothed.sum() == pytest.approx(1.0, abs=1e-6)
        found.append((label, float(smoothed[0])))
    return found


def test_probabilities_follow_with_their_half_life() -> None:
    (_, first), (_, second), (_, third) = _seen(Smoother(Smoothing(half_life=1.0)), [1, 0, 0])
    assert (first, second, third) == pytest.approx((1.0, 0.5, 0.25))
    # By the clock it does not matter how often it is asked.
    seldom = _seen(Smoother(Smoothing(half_life=2.0)), [1, 0], [0.0, 4.0])
    often = _seen(Smoother(Smoothing(half_life=2.0)), [1, 0, 0, 0, 0], [0.0, 1.0, 1.5, 1.5, 4.0])
    assert seldom[-1][1] == pytest.approx(0.25)
    assert often[-1][1] == pytest.approx(0.25)


def test_a_label_holds_on_until_another_leads_clearly() -> None:
    flicker = [0.9, 0.48, 0.52, 0.45, 0.55, 0.3, 0.2]
    bare = [label for label, _ in _seen(Smoother(Smoothing()), flicker)]
    assert bare == [0, 1, 0, 1, 0, 1, 1]
    calm = [label for label, _ in _seen(Smoother(Smoothing(margin=0.2)), flicker)]
    assert calm == [0, 0, 0, 0, 0, 1, 1]
    patient = Smoothing(patience=2)
    assert [label for label, _ in _seen(Smoother(patient), flicker)] == [0, 0, 0, 0, 0, 0, 1]
    # One that leads in between begins to be counted anew.
    rows = np.array([[9, 1, 0], [1, 5, 4], [1, 4, 5], [1, 5, 4], [1, 6, 3]], np.float32) / 10
    smoother = Smoother(patient)
    assert [smoother(row, None)[0] for row in rows] == [0, 0, 0, 0, 1]


@given(st.integers(0, 30), st.integers(0, 2**16))
def test_a_smoother_goes_on_from_its_state(cut: int, seed: int) -> None:
    rows = np.random.default_rng(seed).random(30)
    options = Smoothing(half_life=2.0, margin=0.1, patience=2)
    whole = _seen(Smoother(options), rows)
    before, after = Smoother(options), Smoother(options)
    found = _seen(before, rows[:cut])
    after.restore(json.loads(json.dumps(before.state())))
    assert found + _seen(after, rows[cut:]) == whole
