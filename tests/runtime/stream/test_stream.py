"""Streams: chunks, precisions, clocks, silences, mistakes, wherever zero of time lies."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_command import DIMS, noise
from small_bundles import LOSSES, copied, edit, edit_all, note_graphs

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
def test_each_precision_is_exact(precision: str, make_bundle: Any, tmp_path: Path) -> None:
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


def test_only_what_changed_is_made_anew(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("late", ["refuse", "skip", "append"])
def test_a_late_text_is_what_was_asked_for(predictor: Predictor, late: str) -> None:
    """It counts as old as the one before it; time goes on where a text is cleared."""
    stream = predictor.stream(StreamOptions(late=late, stale_after={Modality.T: 2.0}))
    first, other = noise("t", 6), noise("t", 7, 1)
    stream.set_text(first, at=5.0)
    stream.push(a=noise("a", 3), at=6.0)
    stream.drop("a")
    refusal = pytest.raises(InputError, match="modality t: frames of 4 s came after those of 5 s")
    with refusal if late == "refuse" else nullcontext():
        stream.set_text(other, at=4.0)
    assert stream.state.channels[Modality.T].late_frames == (7 if late == "skip" else 0)
    wanted = predictor.predict({"t": other if late == "append" else first}).logits
    np.testing.assert_allclose(stream.predict(at=7.0).logits, wanted, atol=1e-4)
    with pytest.raises(InputError, match=r"a: dropped; .*t: silent for 2\.5 s"):
        stream.predict(at=7.5)
    stream.set_text(None, at=9.0)
    with pytest.raises(InputError, match="t: cleared"):
        stream.predict()
    assert stream.state.now == 9.0


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
    edit_all(own, lambda manifest: manifest.__setitem__("prior", [0.4, 0.3, 0.2, 0.1]))
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
    edit_all(wordy, lambda m: m["modalities"]["t"].__setitem__("frame_rate", None))
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
    assert stream.predict(at=60.0).absent[Modality.T] == "nothing in the window"


EPOCH = 1_800_000_000.0


def _hops(clock: HopClock, count: int, at: float) -> list[int]:
    segments = clock.cut(np.zeros((count, 1), np.float32), 0, at, None)
    return [segment.hop for segment in segments for _ in segment.frames]


@given(
    hop=st.sampled_from([0.1, 0.35, 0.5, 1.0, 2.5]), hops=st.integers(-(10**10), 10**10),
    last=st.integers(-500, 500), count=st.integers(1, 40),
    origin=st.sampled_from([0.0, 12.3, -EPOCH]),
)  # fmt: skip
def test_hops_wherever_zero_is(hop: float, hops: int, last: int, count: int, origin: float) -> None:
    """A frame at a hop's end begins the next one, also where float64 tells 2e-7 s apart."""
    clock = HopClock(Modality.A, hop, 10.0)
    clock.origin = origin
    tenths = round(hop * 100)
    wanted = [hops + (n * 10) // tenths for n in range(last - count + 1, last + 1)]
    at = origin + (hops * hop + last / 10.0)
    assert _hops(clock, count, at) == wanted
    assert clock.hop_at(at) == wanted[-1]


FRAMES = 40


@pytest.fixture(scope="module")
def eight_bits(make_bundle: Any) -> Predictor:
    bundle = make_bundle(["a_v_t"], ("int8", "fp32"), shapes=("latency", "stream"))
    return Predictor(bundle, backend=CPU, precision="int8", share=True)


@pytest.mark.parametrize("chunk", [1, 2, 7, FRAMES])
@pytest.mark.parametrize("seed", range(4))
def test_what_comes_in_chunks_is_the_whole(eight_bits: Predictor, seed: int, chunk: int) -> None:
    """The whole runs the same graphs once each. Steps compute in float32."""
    stream, utterance = eight_bits.stream(), {m: noise(m, FRAMES, seed) for m in DIMS}
    for start in range(0, FRAMES, chunk):
        stream.push({m: frames[start : start + chunk] for m, frames in utterance.items()})
        if start + chunk >= 5:
            heard = {m: frames[: start + chunk] for m, frames in utterance.items()}
            said, wanted = stream.predict().logits, eight_bits.predict(heard).logits
            np.testing.assert_allclose(said, wanted, atol=1e-4 if start else 0)


def test_something_computes_in_8_bits_but_no_step(eight_bits: Predictor) -> None:
    for modality in Modality:
        assert not eight_bits.bundle.entry(modality, "int8", "step").quantised
        assert eight_bits.bundle.entry(modality, "int8", "summary").quantised
    assert eight_bits.bundle.entry(Pattern.parse("a_v_t"), "int8", "head").quantised
