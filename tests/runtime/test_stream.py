"""Streams: chunks, precisions, clocks, silences, mistakes, wherever zero of time lies."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_command import DIMS, noise
from small_bundles import LOSSES, copied, edit, note_graphs

from ifmmin.runtime import InputError, Modality, Pattern, Predictor, StreamOptions
from ifmmin.runtime.modality import MODALITIES
from ifmmin.runtime.stream.window import HopClock
from ifmmin.runtime.validate import Policy

CPU = "onnxruntime-cpu"
KINDS = ("statistics", "attention", "sum", "last", "mmin")


def _utterance(count: int = 20) -> dict[str, Any]:
    return {letter: noise(letter, count) for letter in DIMS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_encoder_is_exact_in_chunks_of_any_size(kind: str, make_bundle: Any) -> None:
    bundle = make_bundle(["a_v_t"], shapes=("latency", "stream"), kind=kind)
    predictor, whole = Predictor(bundle, backend=CPU), _utterance(60)
    for sizes in ([1], [7], [60], [1, 2, 30, 5]):
        stream, start = predictor.stream(), 0
        for size in itertools.cycle(sizes):
            stream.push({letter: x[start : start + size] for letter, x in whole.items()})
            start = min(60, start + size)
            wanted = predictor.predict({letter: x[:start] for letter, x in whole.items()})
            np.testing.assert_allclose(stream.predict().logits, wanted.logits, atol=1e-4, rtol=1e-4)
            if start == 60:
                break


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_precision_is_exact_in_its_own_terms(
    precision: str, make_bundle: Any, tmp_path: Path
) -> None:
    bundle = make_bundle(["a_v_t"], (precision, "fp32"), shapes=("latency", "stream"))
    edited = copied(bundle, tmp_path)
    # Here on the CPU, where a half-precision graph runs as well, if slowly.
    edit(edited, lambda m: m["backends"][CPU].__setitem__("precisions", [precision, "fp32"]))
    reduced = Predictor(edited, backend=CPU, precision=precision)
    full, whole = Predictor(edited, backend=CPU), _utterance(40)
    stream, one_by_one = reduced.stream(), reduced.stream()
    stream.push(whole)
    for number in range(40):
        one_by_one.push({letter: x[number : number + 1] for letter, x in whole.items()})
    said, again = stream.predict(), one_by_one.predict()
    assert said.precision == precision
    # What a stream keeps is rounded at every chunk.
    rounding = {"fp16": 2e-2, "int8": 5e-2}[precision]
    np.testing.assert_allclose(said.probabilities, again.probabilities, atol=rounding)
    wanted = full.predict(whole)
    loss = LOSSES["probabilities"]
    np.testing.assert_allclose(said.probabilities, wanted.probabilities, atol=loss)
    assert not np.array_equal(said.logits, wanted.logits)


def test_an_answer_is_made_anew_only_where_something_changed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = note_graphs(monkeypatch)
    stream = Predictor(bundle, backend=CPU).stream()
    stream.push(_utterance())
    first = stream.predict()
    noted.calls.clear()
    np.testing.assert_array_equal(stream.predict().logits, first.logits)
    assert noted.calls == []
    stream.drop("v")
    stream.predict()
    stream.restore("v")
    np.testing.assert_array_equal(stream.predict().logits, first.logits)
    assert [file.split(".")[:2] for file, _ in noted.calls] == [["a_t", "head"], ["a_v_t", "head"]]
    stream.push(a=noise("a", 3, 9) * 5)
    assert not np.array_equal(stream.predict().logits, first.logits)


def test_silence_counts_as_missing_until_it_ends(predictor: Predictor) -> None:
    stream = predictor.stream(StreamOptions(stale_after={Modality.V: 2.0}))
    stream.push(a=noise("a"), v=noise("v"), at=10.0)
    assert stream.predict(at=12.0).pattern == Pattern.parse("a_v")
    answer = stream.predict(at=12.5)
    assert answer.pattern == Pattern.parse("a")
    assert answer.absent[Modality.V] == "silent for 2.5 s, more than 2"
    stream.push(a=noise("a", 2), at=13.0)
    assert stream.pattern == Pattern.parse("a")
    stream.push(v=noise("v", 2), at=13.5)
    assert stream.pattern == Pattern.parse("a_v")
    both = {"a": np.concatenate([noise("a"), noise("a", 2)]),
            "v": np.concatenate([noise("v"), noise("v", 2)])}  # fmt: skip
    np.testing.assert_allclose(stream.predict().logits, predictor.predict(both).logits, atol=1e-4)


def test_a_clock_gives_the_time_that_is_not_given(predictor: Predictor) -> None:
    now = iter([100.0, 101.0, 109.0])
    options = StreamOptions(stale_after={Modality.A: 5.0}, clock=lambda: next(now))
    stream = predictor.stream(options)
    stream.push(a=noise("a"))
    assert stream.predict().pattern == Pattern.parse("a")
    with pytest.raises(InputError, match="silent for 9 s, more than 5"):
        stream.predict()


def test_a_clock_goes_on_where_a_snapshot_stopped(predictor: Predictor) -> None:
    options: dict[str, Any] = {"window": 3.0, "hop": 1.0, "stale_after": {Modality.A: 5.0}}
    first = predictor.stream(StreamOptions(**options, clock=lambda: 1000.25))
    first.push(a=noise("a"))
    now = [7.0]
    second = predictor.stream(StreamOptions(**options, clock=lambda: now[0]))
    second.resume(first.snapshot())
    np.testing.assert_array_equal(second.predict().logits, first.predict().logits)
    now[0] = 7.1
    second.push(a=np.empty((0, 5), np.float32))  # time here is not ahead of the clock
    assert second.state.now == 7.1
    now[0] = 8.35
    second.push(a=noise("a", 5, 2))
    wanted = predictor.stream(StreamOptions(**options))
    wanted.push(a=noise("a"), at=1000.25)
    wanted.push(a=noise("a", 5, 2), at=1001.6)
    np.testing.assert_allclose(second.predict().logits, wanted.predict().logits, atol=1e-6)
    now[0] = 30.0
    with pytest.raises(InputError, match="silent for"):
        second.predict()


@pytest.mark.parametrize("late", ["refuse", "skip", "append"])
def test_late_frames_are_what_was_asked_for(predictor: Predictor, late: str) -> None:
    stream = predictor.stream(StreamOptions(late=late))
    stream.push(a=noise("a", 5), at=5.0)
    other = noise("a", 4, 1)
    if late == "refuse":
        with pytest.raises(InputError, match="frames of 4 s came after those of 5 s"):
            stream.push(a=other, v=noise("v"), at=4.0)
    else:
        stream.push(a=other, at=4.0)
    heard = noise("a", 5) if late != "append" else np.concatenate([noise("a", 5), other])
    np.testing.assert_allclose(
        stream.predict().logits, predictor.predict({"a": heard}).logits, atol=1e-4
    )
    assert stream.state.channels[Modality.A].late_frames == (4 if late == "skip" else 0)


def test_poor_and_broken_frames_follow_the_policy(bundle: Path) -> None:
    policy = Policy(nan_frames="drop", minimum_quality={Modality.V: 0.5})
    predictor = Predictor(bundle, backend=CPU, policy=policy)
    stream = predictor.stream()
    holed = noise("a", 6)
    holed[2, 1] = np.nan
    stream.push(a=holed, v=noise("v"), quality={"v": 0.2})
    answer = stream.predict()
    assert answer.absent[Modality.V] == "quality 0.2 is below 0.5"
    assert answer.dropped == {Modality.A: 1}
    wanted = predictor.predict({"a": np.delete(holed, 2, axis=0)})
    np.testing.assert_allclose(answer.logits, wanted.logits, atol=1e-4)
    stream.push(v=np.full((3, 7), np.nan))
    assert stream.predict().absent[Modality.V] == "all frames are NaN"


def test_with_nothing_there_the_prior_answers_where_asked_for(bundle: Path, tmp_path: Path) -> None:
    own = copied(bundle, tmp_path)
    edit(own, lambda manifest: manifest.__setitem__("prior", [0.4, 0.3, 0.2, 0.1]))
    predictor = Predictor(own, backend=CPU, on_empty="prior")
    stream = predictor.stream()
    answer = stream.predict()
    assert (answer.label, answer.backend, answer.pattern) == ("angry", "prior", None)
    assert answer.absent == dict.fromkeys(MODALITIES, "not given")
    assert [a.backend for a in predictor.streams(2).update() if a] == ["prior"] * 2


def test_a_pattern_without_a_head_is_named(make_bundle: Any) -> None:
    stream = Predictor(make_bundle(("a_t", "t"), shapes=("stream",)), backend=CPU).stream()
    stream.push(a=noise("a"))
    with pytest.raises(Exception, match=r"no head for streams of pattern a; it has t, a_t|a_t, t"):
        stream.predict()
    stream.push(t=noise("t"))
    assert stream.predict().pattern == Pattern.parse("a_t")
    with pytest.raises(InputError, match="knows no modality v; it knows a, t"):
        stream.push(v=noise("v"))
    assert stream.predict().absent == {Modality.V: "not given"}


def test_text_without_a_rate_needs_times_in_a_window(bundle: Path, tmp_path: Path) -> None:
    wordy = copied(bundle, tmp_path)
    edit(wordy, lambda m: m["modalities"]["t"].__setitem__("frame_rate", None))
    stream = Predictor(wordy, backend=CPU).stream(StreamOptions(window=4.0, hop=1.0))
    with pytest.raises(InputError, match="modality t has no frame rate"):
        stream.push(t=noise("t", 3))
    stream.set_text(noise("t", 3))
    stream.push(a=noise("a", 100))
    assert stream.pattern == Pattern.parse("a_t")
    stream.clear("t")
    for word in range(8):
        stream.push(t=noise("t", 2, word), at=word + 0.5)
    assert stream.frames[Modality.T] == 8
    stream.set_text(noise("t", 3))
    with pytest.raises(InputError, match="pushed without a time after frames with one"):
        stream.push(t=noise("t", 3))


RATE = 10.0
EPOCH = 1_800_000_000.0
WINDOW = StreamOptions(window=1.0, hop=0.5)


@pytest.fixture(scope="module")
def lenient(bundle: Path) -> Predictor:
    policy = Policy(nan_frames="drop", minimum_quality={Modality.V: 0.5})
    return Predictor(bundle, backend="onnxruntime-cpu", policy=policy)


def _holed(letter: str, count: int, *holes: int) -> Any:
    frames = noise(letter, count)
    frames[list(holes), 0] = np.nan
    return frames


def _hops(clock: HopClock, count: int, at: float) -> list[int]:
    segments = clock.cut(np.zeros((count, 1), np.float32), 0, at, None)
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
    clock = HopClock(Modality.A, hop, RATE)
    clock.origin = origin
    tenths = round(hop * 100)
    wanted = [hops + (n * 10) // tenths for n in range(last - count + 1, last + 1)]
    at = origin + (hops * hop + last / RATE)
    assert _hops(clock, count, at) == wanted
    assert clock.hop_at(at) == wanted[-1]


@pytest.mark.parametrize("zero", [-99.0, -1.5, EPOCH, -EPOCH])
def test_an_answer_does_not_depend_on_where_zero_is(predictor: Predictor, zero: float) -> None:
    options = StreamOptions(window=0.9, hop=0.3)
    here, there = predictor.stream(options), predictor.stream(options)
    for number, count in enumerate([3, 5, 1, 1, 7, 2, 9]):
        at = sum([3, 5, 1, 1, 7, 2, 9][: number + 1]) / RATE
        for stream, start in ((here, 0.0), (there, zero)):
            stream.push(a=noise("a", count, number), at=start + at)
        assert here.frames == there.frames
        np.testing.assert_array_equal(here.predict().logits, there.predict().logits)
    assert here.frames[Modality.A] < 28


def test_a_window_that_ends_before_zero_looks_back_as_far(predictor: Predictor) -> None:
    stream, frames = predictor.stream(WINDOW), noise("a", 100)
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
    stream.push(a=noise("a", 30), v=noise("v", 30), at=-50.0)
    stream.clear("a")
    again = predictor.stream(WINDOW)
    again.resume(stream.snapshot())
    again.push(a=noise("a", 5), at=-49.0)
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
    stream.push(v=noise("v", 10))
    lost, quality = noise("v", 4), {"v": 0.1}
    if silence == "nan":
        lost, quality = lost * np.nan, {}
    stream.push(v=lost, quality=quality)
    assert stream.frames[Modality.V] == 5
    stream.push(v=noise("v", 1, 1))
    assert stream.frames[Modality.V] == 6
    stream.push(v=noise("v", 1, 1))
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
    stream.push(a=noise("a", 1), at=1.5)
    with pytest.raises(InputError, match=r"frames of 1\.4 s came after those of 1\.5 s"):
        stream.push(a=_holed("a", 6, 5), at=1.5)


@pytest.mark.parametrize("tokens", [7, 0])
@pytest.mark.parametrize("late", ["refuse", "skip", "append"])
def test_a_late_text_is_what_was_asked_for(predictor: Predictor, late: str, tokens: int) -> None:
    stream = predictor.stream(StreamOptions(late=late, stale_after={Modality.T: 2.0}))
    first, other = noise("t", 6), noise("t", tokens, 1) if tokens else None
    stream.set_text(first, at=5.0)
    if late == "refuse":
        with pytest.raises(InputError, match="modality t: frames of 4 s came after those of 5 s"):
            stream.set_text(other, at=4.0)
    else:
        stream.set_text(other, at=4.0)
    channel = stream.state.channels[Modality.T]
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
    stream.push(a=noise("a", 3), t=noise("t", 3), at=1.0)
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
    stream.push(a=noise("a", 25), v=noise("v", 25))
    now[0] = 102.5
    assert stream.pattern == Pattern.parse("a")
    stream.restore("v")
    now[0] = 103.1
    assert stream.frames[Modality.A] == 1
    now[0] = 101.0
    stream.reset()
    stream.push(a=noise("a", 25), v=noise("v", 25))
    now[0] = 102.5
    kept = stream.snapshot()
    now[0] = 7.0
    stream.resume(kept)
    now[0] = 8.0  # 1.5 s before the snapshot and as long as that after it
    assert stream.pattern == Pattern.parse("a")


FRAMES = 40
SEEDS = range(4)
CHUNKS = (1, 2, 7)


@pytest.fixture(scope="module")
def eight_bits(make_bundle: Any) -> Predictor:
    bundle = make_bundle(["a_v_t"], ("int8", "fp32"), shapes=("latency", "stream"))
    return Predictor(bundle, backend=CPU, precision="int8", share=True)


def _drawn(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {m: rng.standard_normal((FRAMES, d)).astype(np.float32) for m, d in DIMS.items()}


def _upto(utterance: dict[str, Any], end: int) -> dict[str, Any]:
    return {m: frames[:end] for m, frames in utterance.items()}


def _ends(chunk: int) -> list[tuple[int, int]]:
    return [(start, min(FRAMES, start + chunk)) for start in range(0, FRAMES, chunk)]


@pytest.mark.parametrize("end", [5, 6, 23, FRAMES])
def test_what_is_pushed_at_once_is_the_whole(eight_bits: Predictor, end: int) -> None:
    stream, heard = eight_bits.stream(), _upto(_drawn(0), end)
    stream.push(heard)
    np.testing.assert_array_equal(stream.predict().logits, eight_bits.predict(heard).logits)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_pushed_in_chunks_is_the_whole(
    eight_bits: Predictor, seed: int, chunk: int
) -> None:
    """The whole runs the same graphs once each. Steps compute in float32."""
    stream, utterance = eight_bits.stream(), _drawn(seed)
    for start, end in _ends(chunk):
        stream.push({m: frames[start:end] for m, frames in utterance.items()})
        if end < 5:
            continue
        said, wanted = stream.predict().logits, eight_bits.predict(_upto(utterance, end)).logits
        np.testing.assert_allclose(said, wanted, atol=1e-4)


def test_something_computes_in_8_bits_but_no_step(eight_bits: Predictor) -> None:
    for modality in Modality:
        assert not eight_bits.bundle.entry(modality, "int8", "step").quantised
        assert eight_bits.bundle.entry(modality, "int8", "summary").quantised
    assert eight_bits.bundle.entry(Pattern.parse("a_v_t"), "int8", "head").quantised
