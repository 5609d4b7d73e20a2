"""Streams: chunks, precisions, forgetting, smoothing, clocks, mistakes, bytes to go on from."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundles import ALL, LOSSES, copied, edit, small_bundle

from ifmmin.runtime import InputError, Pattern, Predictor, StreamOptions
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.runtime.stream.state import Head
from ifmmin.runtime.validate import Policy

DIMS = {"a": 5, "v": 7, "t": 11}
CPU = "onnxruntime-cpu"
KINDS = ("statistics", "attention", "sum", "last", "mmin")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_network: Any) -> Path:
    return small_bundle(make_network, tmp_path_factory, ALL)


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return Predictor(bundle, backend=CPU)


def _frames(letter: str, count: int = 20, seed: int = 0) -> Any:
    rng = np.random.default_rng((seed, ord(letter)))
    return rng.standard_normal((count, DIMS[letter])).astype(np.float32)


def _utterance(count: int = 20) -> dict[str, Any]:
    return {letter: _frames(letter, count) for letter in DIMS}


def _kind(kind: str, factory: pytest.TempPathFactory, make_network: Any) -> Path:
    shapes = ("latency", "stream")
    return small_bundle(make_network, factory, ["a_v_t"], shapes=shapes, kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_encoder_is_exact_in_chunks_of_any_size(
    kind: str, tmp_path_factory: pytest.TempPathFactory, make_network: Any
) -> None:
    bundle = _kind(kind, tmp_path_factory, make_network)
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
    precision: str, tmp_path_factory: pytest.TempPathFactory, make_network: Any
) -> None:
    made = (precision, "fp32")
    shapes = ("latency", "stream")
    bundle = small_bundle(make_network, tmp_path_factory, ["a_v_t"], made, shapes=shapes)
    edited = copied(bundle, tmp_path_factory.mktemp("precision"))
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


def test_an_answer_is_made_anew_only_where_something_changed(predictor: Predictor) -> None:
    stream = predictor.stream()
    stream.push(_utterance())
    first = stream.predict()
    calls: list[Pattern] = []
    heads = stream._engine.heads
    for modalities, head in list(heads.items()):

        def run(inputs: Any, head: Head = head) -> Any:
            calls.append(head.pattern)
            return head.run(inputs)

        heads[modalities] = head._replace(run=run)
    try:
        np.testing.assert_array_equal(stream.predict().logits, first.logits)
        assert calls == []
        stream.drop("v")
        stream.predict()
        stream.restore("v")
        np.testing.assert_array_equal(stream.predict().logits, first.logits)
        assert calls == [Pattern.parse("a_t"), Pattern.parse("a_v_t")]
        stream.push(a=_frames("a", 3, 9) * 5)
        assert not np.array_equal(stream.predict().logits, first.logits)
    finally:
        del predictor.__dict__["_streams"]


def test_silence_counts_as_missing_until_it_ends(predictor: Predictor) -> None:
    stream = predictor.stream(StreamOptions(stale_after={Modality.V: 2.0}))
    stream.push(a=_frames("a"), v=_frames("v"), at=10.0)
    assert stream.predict(at=12.0).pattern == Pattern.parse("a_v")
    answer = stream.predict(at=12.5)
    assert answer.pattern == Pattern.parse("a")
    assert answer.absent[Modality.V] == "silent for 2.5 s, more than 2"
    stream.push(a=_frames("a", 2), at=13.0)
    assert stream.pattern == Pattern.parse("a")
    stream.push(v=_frames("v", 2), at=13.5)
    assert stream.pattern == Pattern.parse("a_v")
    both = {"a": np.concatenate([_frames("a"), _frames("a", 2)]),
            "v": np.concatenate([_frames("v"), _frames("v", 2)])}  # fmt: skip
    np.testing.assert_allclose(stream.predict().logits, predictor.predict(both).logits, atol=1e-4)


def test_a_clock_gives_the_time_that_is_not_given(predictor: Predictor) -> None:
    now = iter([100.0, 101.0, 109.0])
    options = StreamOptions(stale_after={Modality.A: 5.0}, clock=lambda: next(now))
    stream = predictor.stream(options)
    stream.push(a=_frames("a"))
    assert stream.predict().pattern == Pattern.parse("a")
    with pytest.raises(InputError, match="silent for 9 s, more than 5"):
        stream.predict()


def test_a_clock_goes_on_where_a_snapshot_stopped(predictor: Predictor) -> None:
    options: dict[str, Any] = {"window": 3.0, "hop": 1.0, "stale_after": {Modality.A: 5.0}}
    first = predictor.stream(StreamOptions(**options, clock=lambda: 1000.25))
    first.push(a=_frames("a"))
    now = [7.0]
    second = predictor.stream(StreamOptions(**options, clock=lambda: now[0]))
    second.resume(first.snapshot())
    np.testing.assert_array_equal(second.predict().logits, first.predict().logits)
    now[0] = 7.1
    second.push(a=np.empty((0, 5), np.float32))  # time here is not ahead of the clock
    assert second.session.now == 7.1
    now[0] = 8.35
    second.push(a=_frames("a", 5, 2))
    wanted = predictor.stream(StreamOptions(**options))
    wanted.push(a=_frames("a"), at=1000.25)
    wanted.push(a=_frames("a", 5, 2), at=1001.6)
    np.testing.assert_allclose(second.predict().logits, wanted.predict().logits, atol=1e-6)
    now[0] = 30.0
    with pytest.raises(InputError, match="silent for"):
        second.predict()


@pytest.mark.parametrize("late", ["refuse", "skip", "append"])
def test_late_frames_are_what_was_asked_for(predictor: Predictor, late: str) -> None:
    stream = predictor.stream(StreamOptions(late=late))
    stream.push(a=_frames("a", 5), at=5.0)
    other = _frames("a", 4, 1)
    if late == "refuse":
        with pytest.raises(InputError, match="frames of 4 s came after those of 5 s"):
            stream.push(a=other, v=_frames("v"), at=4.0)
    else:
        stream.push(a=other, at=4.0)
    heard = _frames("a", 5) if late != "append" else np.concatenate([_frames("a", 5), other])
    np.testing.assert_allclose(
        stream.predict().logits, predictor.predict({"a": heard}).logits, atol=1e-4
    )
    assert stream.session.channels[Modality.A].late_frames == (4 if late == "skip" else 0)


def test_poor_and_broken_frames_follow_the_policy(bundle: Path) -> None:
    policy = Policy(nan_frames="drop", minimum_quality={Modality.V: 0.5})
    predictor = Predictor(bundle, backend=CPU, policy=policy)
    stream = predictor.stream()
    holed = _frames("a", 6)
    holed[2, 1] = np.nan
    stream.push(a=holed, v=_frames("v"), quality={"v": 0.2})
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


def test_a_pattern_without_a_head_is_named(
    tmp_path_factory: pytest.TempPathFactory, make_network: Any
) -> None:
    bundle = small_bundle(make_network, tmp_path_factory, ("a_t", "t"))
    stream = Predictor(bundle, backend=CPU).stream()
    stream.push(a=_frames("a"))
    with pytest.raises(Exception, match=r"no head for streams of pattern a; it has t, a_t|a_t, t"):
        stream.predict()
    stream.push(t=_frames("t"))
    assert stream.predict().pattern == Pattern.parse("a_t")
    with pytest.raises(InputError, match="knows no modality v; it knows a, t"):
        stream.push(v=_frames("v"))
    assert stream.predict().absent == {Modality.V: "not given"}


def test_text_without_a_rate_needs_times_in_a_window(bundle: Path, tmp_path: Path) -> None:
    wordy = copied(bundle, tmp_path)
    edit(wordy, lambda m: m["modalities"]["t"].__setitem__("frame_rate", None))
    stream = Predictor(wordy, backend=CPU).stream(StreamOptions(window=4.0, hop=1.0))
    with pytest.raises(InputError, match="modality t has no frame rate"):
        stream.push(t=_frames("t", 3))
    stream.set_text(_frames("t", 3))
    stream.push(a=_frames("a", 100))
    assert stream.pattern == Pattern.parse("a_t")
    stream.clear("t")
    for word in range(8):
        stream.push(t=_frames("t", 2, word), at=word + 0.5)
    assert stream.frames[Modality.T] == 8
    stream.set_text(_frames("t", 3))
    with pytest.raises(InputError, match="pushed without a time after frames with one"):
        stream.push(t=_frames("t", 3))
