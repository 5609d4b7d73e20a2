"""What a stream may be told; what cannot be meant gets one clear line each, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_command import frames

from ifmmin.runtime import InputError, Predictor, Smoothing, StreamOptions
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.stream.options import Smoother, SmootherState
from ifmmin.runtime.stream.stream import Stream
from ifmmin.runtime.stream.window import HopClock
from ifmmin.runtime.validate import Policy

A, T = frames("a", 4), frames("t", 3)
NAN, HUGE = float("nan"), 10**400


CALLS: list[tuple[str, Callable[[Any], object], str]] = [
    ("an array", lambda s: s.push(np.array(A)), "frames: got an object of type ndarray, wanted a"),
    ("a list", lambda s: s.push(A), "frames: got an object of type list, wanted a mapping such as"),
    ("a word", lambda s: s.push("a"), "frames: got 'a', wanted a mapping such as"),
    ("zero", lambda s: s.push(0), "frames: got 0, wanted a mapping"),
    ("pairs", lambda s: s.push([("a", A)]), "frames: got an object of type list"),
    ("both", lambda s: s.push({"a": A}, a=A), "modality a: got frames twice; give them once"),
    ("both ways", lambda s: s.push({Modality.A: A, "t": T}, a=A), "modality a: got frames twice"),
    ("x", lambda s: s.push({"x": A}), "unknown modality 'x'"),
    ("1", lambda s: s.push({1: A}), "unknown modality '1'"),
    ("nothing of x", lambda s: s.push({"x": None}), "unknown modality 'x'"),
    ("no array", lambda s: s.push(a=object()), "modality a: got an array of object"),
    ("one number", lambda s: s.push(a=1.0), r"modality a \(acoustic\): got shape \(\)"),
    ("tokens", lambda s: s.set_text(7), r"modality t \(textual\): got shape \(\)"),
    ("one bad", lambda s: s.push(a=A, t=A, at=6), r"modality t \(textual\): got shape \(4, 5\)"),
    ("quality", lambda s: s.push(a=A, quality={"x": 1.0}), "unknown modality 'x'"),
    ("no quality", lambda s: s.push(a=A, quality=0.5), "quality: got float, wanted a score per"),
    ("scores", lambda s: s.push(a=A, quality=np.ones(3)), "quality: got ndarray, wanted"),
    ("at", lambda s: s.push(a=A, at="noon"), "time: got 'noon', wanted a finite number of seconds"),
    ("at nan", lambda s: s.push(a=A, at=NAN), "time: got nan, wanted a finite number"),
    ("at huge", lambda s: s.push(a=A, at=HUGE), "time: got an integer of 1329 bits, wanted"),
    ("at true", lambda s: s.push(a=A, at=True), "time: got True, wanted"),
    ("at numpy's true", lambda s: s.push(a=A, at=np.True_), "time: got an object of type bool"),
    ("at complex", lambda s: s.push(a=A, at=np.complex64(1)), "time: got an object of type comp"),
    ("at array", lambda s: s.push(a=A, at=np.zeros(2)), "time: got an object of type ndarray"),
    ("at 1e300", lambda s: s.push(a=A, at=1e300), "time: got 1e+300, wanted at most 2.25e"),
    ("at -1e300", lambda s: s.push(a=A, at=-1e300), "time: got -1e+300, wanted at most 2.25e"),
    ("text at", lambda s: s.set_text(T, at="x"), "time: got 'x'"),
    ("no text at", lambda s: s.set_text(None, at=NAN), "time: got nan"),
    ("answer at", lambda s: s.predict(at="x"), "time: got 'x'"),
    ("answer at 1e300", lambda s: s.predict(at=1e300), "time: got 1e.300, wanted at most"),
    ("clear x", lambda s: s.clear("x"), "unknown modality 'x'"),
    ("clear a list", lambda s: s.clear(["a"]), "unknown modality"),
    ("drop None", lambda s: s.drop(None), "unknown modality 'None'"),
    ("restore av", lambda s: s.restore("av"), "unknown modality 'av'"),
    ("resume text", lambda s: s.resume("x"), "snapshot: got 'x', wanted bytes"),
]


def _one_line(caught: pytest.ExceptionInfo[InputError]) -> None:
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(("call", "said"), [row[1:] for row in CALLS], ids=[r[0] for r in CALLS])
def test_a_mistake_in_a_call_changes_nothing(
    predictor: Predictor, call: Callable[[Any], object], said: str, waits: bool
) -> None:
    options = StreamOptions(window=2.0, smoothing=Smoothing(half_life=1.0))
    stream: Stream = predictor.streams(2, options)[1] if waits else predictor.stream(options)
    stream.push(a=A, t=T, at=5.0)
    stream.predict()
    stream.push(a=A, at=5.5)
    before = stream.snapshot()
    with pytest.raises(InputError, match=said.replace("+", r"\+")) as caught:
        call(stream)
    _one_line(caught)
    assert stream.snapshot() == before
    stream.push(a=A, at=6.0)
    assert stream.predict().pattern is not None


def test_what_is_too_poor_may_be_anything(bundle: Path) -> None:
    policy = Policy(minimum_quality={Modality.A: 0.5})
    stream = Predictor(bundle, backend="onnxruntime-cpu", policy=policy).stream()
    for value in (np.array(3.0), 3.0, object(), A):
        stream.push(a=value, quality={"a": 0.1})
    assert stream.pattern is None
    assert StreamOptions(window=3.0, hop=0.1).window_count == 30
    assert StreamOptions(window=2.0).window_count == 4
    assert StreamOptions().window_count == 1


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"window": "3"}, "window: got '3', wanted a number of seconds above 0"),
    ({"window": 0.0}, "window: got 0.0, wanted a number of seconds above 0"),
    ({"window": True}, "window: got True"),
    ({"window": NAN}, "window: got nan"),
    ({"window": HUGE}, "window: got an integer of 1329 bits"),
    ({"window": [3]}, "window: got an object of type list"),
    ({"window": 1e-300}, "hop: got 2.5e-301, wanted at least 1e-06 seconds"),
    ({"window": 1e308, "hop": 1e-5}, r"window 1e\+308 has more than 10000 hops of 1e-05 seconds"),
    ({"window": np.array([1.0])}, "window: got an object of type ndarray"),
    ({"hop": 1.0}, "hop without a window"),
    ({"window": 1.0, "hop": "x"}, "hop: got 'x'"),
    ({"window": 1.0, "hop": 1e-9}, "hop: got 1e-09, wanted at least"),
    ({"window": 3.0, "hop": 2.0}, "3 is not a whole number of hops of 2 seconds"),
    ({"window": 1.0, "hop": 2.0}, "not a whole number of hops"),
    ({"stale_after": None}, "stale_after: got None, wanted seconds per modality such as"),
    ({"stale_after": 2.0}, "stale_after: got 2.0, wanted seconds per modality"),
    ({"stale_after": [("v", 2.0)]}, "stale_after: got an object of type list"),
    ({"stale_after": {"x": 2.0}}, "unknown modality 'x'"),
    ({"stale_after": {"v": "2"}}, "stale_after of v: got '2'"),
    ({"stale_after": {"v": 0.0}}, "stale_after of v: got 0.0"),
    ({"stale_after": {"v": None}}, "stale_after of v: got None"),
    ({"stale_after": {Modality.V: True}}, "stale_after of v: got True"),
    ({"late": None}, "late: got None, wanted refuse, skip, append"),
    ({"late": "never"}, "late: got 'never', wanted refuse, skip, append"),
    ({"clock": 3.0}, "clock: got 3.0, wanted a function of seconds such as time.monotonic"),
    ({"smoothing": 1.0}, r"smoothing: got 1.0, wanted Smoothing\(...\) or None"),
]
SMOOTHING: list[tuple[dict[str, Any], str]] = [
    ({"patience": 1.5}, "smoothing patience: got 1.5, wanted 1 or more, a whole number"),
    ({"patience": "2"}, "smoothing patience: got '2'"),
    ({"patience": True}, "smoothing patience: got True"),
    ({"patience": None}, "smoothing patience: got None"),
    ({"patience": 0}, "smoothing patience: got 0, wanted 1 or more"),
    ({"margin": "x"}, "smoothing margin: got 'x', wanted 0 to 1"),
    ({"margin": NAN}, "smoothing margin: got nan"),
    ({"margin": 1.0}, "smoothing margin: got 1.0, wanted 0 to 1"),
    ({"half_life": None}, "smoothing half_life: got None, wanted 0 or more"),
    ({"half_life": HUGE}, "smoothing half_life: got an integer of 1329 bits"),
    ({"half_life": False}, "smoothing half_life: got False"),
    ({"half_life": -1.0}, "smoothing half_life: got -1.0, wanted 0 or more"),
    ({"half_life": float("inf")}, "smoothing half_life: got inf"),
]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [*((StreamOptions, *row) for row in OPTIONS), *((Smoothing, *row) for row in SMOOTHING)],
    ids=lambda value: str(value)[:40],
)
def test_mistakes_in_options(kind: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        kind(**options)
    _one_line(caught)


@pytest.mark.parametrize("options", [{"window": 3.0}, {}, 0, "window"])
def test_what_are_no_options(predictor: Predictor, options: Any) -> None:
    said = r"options: got .*, wanted StreamOptions\(...\)"
    with pytest.raises(InputError, match=said):
        predictor.stream(options)
    with pytest.raises(InputError, match=said):
        predictor.streams(2, options)
    counts: list[Any] = [2.5, "3", None, True, 0, -1, 2.0, np.zeros(2), -HUGE]
    for count in counts:
        with pytest.raises(InputError, match=r"streams: got .*, wanted a whole number of at least"):
            predictor.streams(count)


def test_any_kind_of_number_will_do(predictor: Predictor) -> None:
    """Numbers of numpy and fractions are numbers, also where a snapshot has to write them down."""
    given = StreamOptions(
        window=np.float32(1.5),  # type: ignore[arg-type]
        hop=Fraction(1, 2),  # type: ignore[arg-type]
        stale_after={"v": np.int64(2)},  # type: ignore[dict-item]
        smoothing=Smoothing(half_life=np.float16(2), patience=np.int8(3)),  # type: ignore[arg-type]
    )
    plain = StreamOptions(
        window=1.5, hop=0.5, stale_after={Modality.V: 2.0}, smoothing=Smoothing(2.0, patience=3)
    )
    assert given == plain
    stream, wanted = predictor.streams(np.int32(1), given)[0], predictor.stream(plain)  # type: ignore[arg-type]
    stream.push(a=A, at=np.float64(1.25))
    stream.push(t=T, at=Fraction(3, 2))
    wanted.push(a=A, at=1.25)
    wanted.push(t=T, at=1.5)
    assert stream.snapshot() == wanted.snapshot()


@pytest.mark.parametrize("said", [NAN, float("inf"), None, "noon", True, 1e300, HUGE])
def test_a_clock_that_gives_no_time(predictor: Predictor, said: Any) -> None:
    now: list[Any] = [1.0]
    stream = predictor.stream(StreamOptions(clock=lambda: now[0], window=2.0))
    stream.push(a=A)
    before, now[0] = stream.snapshot(), said
    asked: list[Callable[[], object]] = [
        lambda: stream.push(a=A), lambda: stream.set_text(T), lambda: stream.resume(before),
        stream.predict, stream.snapshot,
    ]  # fmt: skip
    for ask in asked:
        with pytest.raises(InputError, match=r"^clock: got ") as caught:
            ask()
        _one_line(caught)
    now[0] = 1.0
    assert stream.snapshot() == before


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.sampled_from([0.1, 0.35, 1.0]))
def test_hops_are_the_same_however_frames_are_pushed(chunks: list[int], hop: float) -> None:
    clock, total = HopClock(Modality.A, hop, 10.0), sum(chunks)
    frames = np.arange(total, dtype=np.float32)[:, None]
    whole = clock.cut(frames, 0, None, 0)
    assert [s.hop for s in whole] == sorted({s.hop for s in whole})
    pieces, start, reached = [], 0, 0
    for count in chunks:
        pieces += clock.cut(frames[start : start + count], start, None, reached)
        start, reached = start + count, pieces[-1].hop

    def hops(segments: Any) -> list[tuple[int, float]]:
        return [(s.hop, float(x)) for s in segments for x in s.frames[:, 0]]

    assert hops(pieces) == hops(whole)
    assert [float(x) for s in whole for x in s.frames[:, 0]] == list(range(total))
    ends = clock.cut(frames, 0, (total - 1) / 10.0, 0)
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
    told = msgspec.json.decode(msgspec.json.encode(before.state()), type=SmootherState)
    after.restore(told, 0.0)
    assert found + _seen(after, rows[cut:]) == whole
