"""Streams of a group that cannot be answered: they are named, and the others lose nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_command import run
from small_bundles import ALL, small_bundle
from stream_process import event, frames

from ifmmin.runtime import BundleError, InputError, Predictor, Smoothing, StreamOptions
from ifmmin.runtime.stream.engine import of_streams
from ifmmin.runtime.stream.stream import StreamGroup

CPU = "onnxruntime-cpu"
HUGE = np.full((9, 11), 3e38, np.float32)
"""Of text: finite, but a sum of them is not."""
CALM = StreamOptions(smoothing=Smoothing(half_life=3.0))


@pytest.fixture(scope="module")
def partial(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Without heads for a_v, v_t and a_v_t."""
    bundle = small_bundle(make_network, tmp_path_factory, ("a", "v", "a_t"), shapes=("stream",))
    return Predictor(bundle, backend=CPU)


@pytest.fixture(scope="module")
def bundle(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(make_network, tmp_path_factory, ALL, shapes=("latency", "stream"))


def _spoken(group: StreamGroup, letters: str) -> None:
    """One modality or several of each stream."""
    for number, word in enumerate(letters.split()):
        group.push(number, {m: frames(m, 6, number) for m in word})


def _count_calls(group: StreamGroup) -> list[str]:
    """The names of graphs that are called from now on."""
    called: list[str] = []
    engine = group._engine

    def counting(name: str, run: Any) -> Any:
        def counted(inputs: Any) -> Any:
            called.append(name)
            return run(inputs)

        return counted

    for modality, run_summary in list(engine._summaries.items()):
        engine._summaries[modality] = counting(f"summary {modality}", run_summary)
    for modalities, head in list(engine.heads.items()):
        engine.heads[modalities] = head._replace(run=counting(f"head {head.name}", head.run))
    return called


def test_a_missing_head_is_named_and_the_others_are_answered(partial: Predictor) -> None:
    group = partial.streams(5, CALM)
    _spoken(group, "at av a v av")
    said = r"^streams 1, 4: the bundle has no head for streams of pattern a_v; it has a, v, a_t; "
    try:
        with pytest.raises(BundleError, match=said):
            group.update()
        called = _count_calls(group)
        before = [stream.snapshot() for stream in group]
        with pytest.raises(BundleError, match=said):
            group.update()
        assert called == []  # all that could be answered was, the first time
        assert [stream.snapshot() for stream in group] == before
        for number in (1, 4):
            group[number].drop("v")
        answers = group.update()
        assert called == ["head a"]  # of what is new
    finally:
        del partial.__dict__["_streams"]
    alone = partial.streams(5, CALM)
    _spoken(alone, "at a a v a")
    for answer, wanted in zip(answers, alone.update(), strict=True):
        assert answer is not None
        assert wanted is not None
        assert answer.pattern == wanted.pattern
        np.testing.assert_allclose(answer.logits, wanted.logits, atol=1e-5)


def test_the_others_can_be_asked_alone(partial: Predictor) -> None:
    group = partial.streams(2)
    _spoken(group, "av at")
    with pytest.raises(BundleError, match=r"^stream 0: the bundle has no head"):
        group.update()
    assert str(group[1].predict().pattern) == "a_t"
    with pytest.raises(BundleError, match=r"^the bundle has no head"):
        group[0].predict()
    assert [p in partial.stream_patterns for p in (group[0].pattern, group[1].pattern)] == [
        False,
        True,
    ]


def test_an_answer_that_is_no_number_is_named(bundle: Path) -> None:
    """It is forgotten with the text that led to it: smoothing does not carry it on."""
    predictor = Predictor(bundle, backend=CPU)
    group, alone = predictor.streams(3, CALM), predictor.stream(CALM)
    _spoken(group, "a at a")
    alone.push(a=frames("a", 6, 1), t=frames("t", 6, 1))
    first = group.update()
    alone.predict()
    assert None not in first
    group.push(1, t=HUGE)
    before = [stream.snapshot() for stream in group]
    for _ in range(2):
        with pytest.raises(InputError, match=r"^stream 1: the answer is not a number.*clear the"):
            group.update()
        with pytest.raises(InputError, match=r"^the answer is not a number.*or reset the stream"):
            group[1].predict()
    assert [stream.snapshot() for stream in group] == before
    for stream in (group[1], alone):
        stream.clear("t")
        stream.push(a=frames("a", 2, 8))
    said, wanted = group.update()[1], alone.predict()
    assert said is not None
    assert np.isfinite(said.probabilities).all()
    np.testing.assert_allclose(said.probabilities, wanted.probabilities, atol=1e-5)


def test_the_command_goes_on_after_an_answer_that_is_no_number(bundle: Path) -> None:
    lines = [
        event("push", a=frames("a", 5)),
        event("push", t=HUGE.tolist()),
        event("clear", modality="t"),
    ]
    ran = run(bundle, "--stream", "-", "--smooth", 2, stdin=lines)
    first, wrong, last = ran.answers
    assert (ran.code, wrong["line"]) == (1, 2)
    assert "the answer is not a number" in wrong["error"]
    assert last["probabilities"] == pytest.approx(first["probabilities"], abs=1e-5)


@pytest.mark.parametrize("number", [3, -4, 2.5, "0", None, True])
def test_what_is_no_stream_of_the_group(bundle: Path, number: Any) -> None:
    group = Predictor(bundle, backend=CPU).streams(3)
    with pytest.raises(InputError, match=r"stream: got .*, wanted the number of one of 3 streams"):
        group.push(number, a=frames("a", 2))
    group.push(-1, a=frames("a", 2))
    assert [answer is None for answer in group.update()] == [True, True, False]


def test_a_time_that_is_none_moves_no_stream(bundle: Path) -> None:
    now = [1.0]
    group = Predictor(bundle, backend=CPU).streams(2, StreamOptions(clock=lambda: now[0]))
    before = [stream.snapshot() for stream in group]
    now[0] = float("nan")
    with pytest.raises(InputError, match="clock: got nan"):
        group.update()
    now[0] = 1.0
    with pytest.raises(InputError, match="time: got inf"):
        group.update(at=float("inf"))
    assert [stream.snapshot() for stream in group] == before


def test_many_streams_are_not_all_named() -> None:
    one = {number: InputError("it is late") for number in range(60)}
    assert str(of_streams(one)) == "streams 0, 1, 2, 3, 4, 5, 6, 7 and 52 more: it is late"
    two = of_streams({7: BundleError("none here"), 2: InputError("no number")})
    assert isinstance(two, BundleError)
    assert str(two) == "stream 2: no number; stream 7: none here"
