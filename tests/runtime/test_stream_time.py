"""Time in streams: zero lies anywhere, frames that cannot be heard take theirs, texts come late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_bundles import ALL, small_bundle

from ifmmin.runtime import InputError, Modality, Pattern, Predictor, StreamOptions
from ifmmin.runtime.stream.window import Timeline
from ifmmin.runtime.validate import Policy

DIMS = {"a": 5, "v": 7, "t": 11}
RATE = 10.0
EPOCH = 1_800_000_000.0
WINDOW = StreamOptions(window=1.0, hop=0.5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_network: Any) -> Path:
    return small_bundle(make_network, tmp_path_factory, ALL)


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return Predictor(bundle, backend="onnxruntime-cpu")


@pytest.fixture(scope="module")
def lenient(bundle: Path) -> Predictor:
    policy = Policy(nan_frames="drop", minimum_quality={Modality.V: 0.5})
    return Predictor(bundle, backend="onnxruntime-cpu", policy=policy)


def _frames(letter: str, count: int, seed: int = 0) -> Any:
    rng = np.random.default_rng((seed, ord(letter)))
    return rng.standard_normal((count, DIMS[letter])).astype(np.float32)


def _holed(letter: str, count: int, *holes: int) -> Any:
    frames = _frames(letter, count)
    frames[list(holes), 0] = np.nan
    return frames


def _hops(timeline: Timeline, count: int, at: float) -> list[int]:
    segments = timeline.cut(np.zeros((count, 1), np.float32), 0, at, None)
    return [segment.hop for segment in segments for _ in segment.frames]


@given(
    hop=st.sampled_from([0.1, 0.35, 0.5, 1.0, 2.5]),
    hops=st.integers(-(10**10), 10**10),
    last=st.integers(-500, 500),
    count=st.integers(1, 40),
    origin=st.sampled_from([0.0, 12.3, -EPOCH]),
)
def test_hops_end_where_they_end_wherever_zero_is(
    hop: float, hops: int, last: int, count: int, origin: float
) -> None:
    """A frame at a hop's end begins the next one, also where float64 tells 2e-7 s apart."""
    timeline = Timeline(Modality.A, hop, RATE)
    timeline.origin = origin
    tenths = round(hop * 100)
    wanted = [hops + (n * 10) // tenths for n in range(last - count + 1, last + 1)]
    at = origin + (hops * hop + last / RATE)
    assert _hops(timeline, count, at) == wanted
    assert timeline.hop_at(at) == wanted[-1]


@pytest.mark.parametrize("zero", [-99.0, -1.5, EPOCH, -EPOCH])
def test_an_answer_does_not_depend_on_where_zero_is(predictor: Predictor, zero: float) -> None:
    options = StreamOptions(window=0.9, hop=0.3)
    here, there = predictor.stream(options), predictor.stream(options)
    for number, count in enumerate([3, 5, 1, 1, 7, 2, 9]):
        at = sum([3, 5, 1, 1, 7, 2, 9][: number + 1]) / RATE
        for stream, start in ((here, 0.0), (there, zero)):
            stream.push(a=_frames("a", count, number), at=start + at)
        assert here.frames == there.frames
        np.testing.assert_array_equal(here.predict().logits, there.predict().logits)
    assert here.frames[Modality.A] < 28


def test_a_window_that_ends_before_zero_looks_back_as_far(predictor: Predictor) -> None:
    stream, frames = predictor.stream(WINDOW), _frames("a", 100)
    stream.push(a=frames, at=-0.1)
    assert stream.frames[Modality.A] == 10
    wanted = predictor.predict({"a": frames[90:]}).logits
    np.testing.assert_allclose(stream.predict().logits, wanted, atol=1e-4)
    kept = stream.snapshot()
    with pytest.raises(InputError, match="nothing in the window"):
        stream.predict(at=2.0)
    stream.resume(kept)
    np.testing.assert_allclose(stream.predict().logits, wanted, atol=1e-4)


def test_what_was_cleared_is_kept_and_goes_on(predictor: Predictor) -> None:
    stream = predictor.stream(WINDOW)
    stream.push(a=_frames("a", 30), v=_frames("v", 30), at=-50.0)
    stream.clear("a")
    again = predictor.stream(WINDOW)
    again.resume(stream.snapshot())
    again.push(a=_frames("a", 5), at=-49.0)
    assert again.frames == {Modality.A: 5, Modality.V: 0, Modality.T: 0}


@pytest.mark.parametrize("at", [None, 4.0])
def test_frames_around_a_hole_keep_their_times(lenient: Predictor, at: float | None) -> None:
    whole, one_by_one = lenient.stream(WINDOW), lenient.stream(WINDOW)
    frames = _holed("a", 40, 30, 32, 33, 34, 35, 38)
    whole.push(a=frames, at=at)
    for number in range(40):
        moment = None if at is None else at - (39 - number) / RATE
        one_by_one.push(a=frames[number : number + 1], at=moment)
    # Timed, frame n lies at (n + 1) / 10 s, so that the last hop holds one frame; else at n / 10.
    first = 30 if at is None else 34
    heard = frames[first:][~np.isnan(frames[first:]).any(axis=1)]
    wanted = lenient.predict({"a": heard}).logits
    for stream in (whole, one_by_one):
        assert stream.frames[Modality.A] == len(heard)
        np.testing.assert_allclose(stream.predict().logits, wanted, atol=1e-4)
        assert stream.predict().dropped == {Modality.A: 6}


@pytest.mark.parametrize("silence", ["nan", "poor"])
def test_frames_that_cannot_be_heard_take_their_time(lenient: Predictor, silence: str) -> None:
    """Without times frames are the only clock, and a sensor spent theirs."""
    stream = lenient.stream(WINDOW)
    stream.push(v=_frames("v", 10))
    lost, quality = _frames("v", 4), {"v": 0.1}
    if silence == "nan":
        lost, quality = lost * np.nan, {}
    stream.push(v=lost, quality=quality)
    assert stream.frames[Modality.V] == 5
    stream.push(v=_frames("v", 1, 1))
    assert stream.frames[Modality.V] == 6
    stream.push(v=_frames("v", 1, 1))
    stream.push(v=np.concatenate([lost] * 4), quality=quality)
    assert stream.pattern is None
    with pytest.raises(InputError, match="v: nothing in the window"):
        stream.predict()


def test_a_hole_at_the_end_is_no_news(lenient: Predictor) -> None:
    """Silence is counted from the newest frame that was heard, and so is what comes late."""
    stream = lenient.stream(StreamOptions(stale_after={Modality.A: 1.0}))
    stream.push(a=_holed("a", 20, *range(11, 20)), at=2.0)
    assert stream.predict(at=2.05).pattern == Pattern.parse("a")
    with pytest.raises(InputError, match="silent for"):
        stream.predict(at=2.3)
    stream.push(a=_frames("a", 1), at=1.5)
    with pytest.raises(InputError, match=r"frames of 1\.4 s came after those of 1\.5 s"):
        stream.push(a=_holed("a", 6, 5), at=1.5)


@pytest.mark.parametrize("tokens", [7, 0])
@pytest.mark.parametrize("late", ["refuse", "skip", "append"])
def test_a_late_text_is_what_was_asked_for(predictor: Predictor, late: str, tokens: int) -> None:
    stream = predictor.stream(StreamOptions(late=late, stale_after={Modality.T: 2.0}))
    first, other = _frames("t", 6), _frames("t", tokens, 1) if tokens else None
    stream.set_text(first, at=5.0)
    if late == "refuse":
        with pytest.raises(InputError, match="modality t: frames of 4 s came after those of 5 s"):
            stream.set_text(other, at=4.0)
    else:
        stream.set_text(other, at=4.0)
    channel = stream.session.channels[Modality.T]
    assert channel.late_frames == (tokens if late == "skip" else 0)
    heard = other if late == "append" else first
    if heard is None:
        assert stream.pattern is None
        return
    wanted = predictor.predict({"t": heard}).logits
    np.testing.assert_allclose(stream.predict(at=7.0).logits, wanted, atol=1e-4)
    with pytest.raises(InputError, match=r"silent for 2\.5 s"):
        stream.predict(at=7.5)


def test_time_goes_on_where_a_text_is_cleared(predictor: Predictor) -> None:
    stream = predictor.stream(StreamOptions(stale_after={Modality.A: 2.0}))
    stream.push(a=_frames("a", 3), t=_frames("t", 3), at=1.0)
    stream.set_text(None, at=3.5)
    assert stream.pattern is None
    with pytest.raises(InputError, match=r"a: silent for 2.5 s, more than 2; .*t: cleared"):
        stream.predict()


def test_whatever_is_asked_knows_the_clock(predictor: Predictor) -> None:
    now = [100.0]
    options = StreamOptions(
        window=4.0, hop=1.0, stale_after={Modality.V: 2.0}, clock=lambda: now[0]
    )
    stream = predictor.stream(options)
    stream.push(a=_frames("a", 25), v=_frames("v", 25))
    now[0] = 102.5
    assert stream.pattern == Pattern.parse("a")
    stream.restore("v")
    now[0] = 103.1
    assert stream.frames[Modality.A] == 1
    now[0] = 101.0
    stream.reset()
    stream.push(a=_frames("a", 25), v=_frames("v", 25))
    now[0] = 102.5
    kept = stream.snapshot()
    now[0] = 7.0
    stream.resume(kept)
    now[0] = 8.0  # 1.5 s before the snapshot and as long as that after it
    assert stream.pattern == Pattern.parse("a")
