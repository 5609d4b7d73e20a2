"""Many streams that move on together say what each would alone, or which cannot be answered."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_command import event, frames, noise, run
from small_bundles import note_graphs

from ifmmin.runtime import BundleError, InputError, Policy, Predictor, Smoothing, StreamOptions
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.stream.engine import merge_errors
from ifmmin.runtime.stream.stream import StreamGroup


@pytest.fixture(scope="module")
def dropping(bundle: Path) -> Predictor:
    """Frames with a NaN are left out."""
    return Predictor(bundle, backend="onnxruntime-cpu", policy=Policy(nan_frames="drop"))


_PUSH = st.tuples(
    st.integers(0, 5), st.sampled_from("avt"), st.integers(1, 7), st.integers(0, 2**16)
)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(_PUSH, max_size=8), min_size=1, max_size=6), st.booleans())
def test_a_group_is_answered_as_one_by_one(
    predictor: Predictor, rounds: list[list[tuple[int, str, int, int]]], windowed: bool
) -> None:
    smoothing = Smoothing(half_life=2.0, margin=0.1)
    options = (
        StreamOptions(1.0, 0.5, smoothing=smoothing)
        if windowed
        else StreamOptions(smoothing=smoothing)
    )
    group = predictor.streams(6, options)
    alone = [predictor.stream(options) for _ in range(6)]
    for pushes in rounds:
        for index, letter, count, seed in pushes:
            frames = noise(letter, count, seed)
            alone[index].push({letter: frames})
            group.push(index, {letter: frames})
            frames[:] = np.nan  # the caller uses its memory again
        if pushes and pushes[0][3] % 5 == 0:
            alone[0].clear("a")
            group[0].clear("a")
        for stream, said in zip(alone, group.update(), strict=True):
            if said is None:
                with pytest.raises(InputError, match="no modality is present"):
                    stream.predict()
                continue
            wanted = stream.predict()
            np.testing.assert_allclose(said.logits, wanted.logits, atol=1e-4, rtol=1e-4)
            np.testing.assert_allclose(said.probabilities, wanted.probabilities, atol=1e-4)
            assert (said.label, said.pattern, said.absent) == (
                wanted.label, wanted.pattern, wanted.absent,
            )  # fmt: skip


_ROUND = st.tuples(
    st.sets(st.integers(0, 5), min_size=1), st.sets(st.sampled_from("avt"), min_size=1),
    st.integers(0, 6), st.integers(0, 2**16), st.sampled_from(["", "nan", "bad"]),
)  # fmt: skip
"""Streams, modalities, frames, a seed, and what is wrong with one row."""


@settings(deadline=None, max_examples=30)
@given(st.lists(_ROUND, min_size=1, max_size=6), st.sampled_from([None, 0.5, 5.0]), st.booleans())
def test_rows_in_one_call_are_pushes(
    dropping: Predictor,
    rounds: list[tuple[set[int], set[str], int, int, str]],
    every: float | None,
    windowed: bool,
) -> None:
    """every: seconds between pushes; None: without times."""
    options = StreamOptions(window=1.0 if windowed else None, stale_after={Modality.V: 2.0})
    together, alone = dropping.streams(6, options), dropping.streams(6, options)
    for number, (chosen, letters, count, seed, wrong) in enumerate(rounds):
        at = None if every is None else number * every
        if at is None and windowed:
            letters = letters - {"t"}  # words have no rate, a window wants their times
        streams = sorted(chosen, key=lambda n: (n * seed) % 7)
        rows = {m: np.stack([noise(m, count, seed + n) for n in streams]) for m in letters}
        if wrong and count:
            for array in rows.values():
                array[-1, 0, 0] = np.nan if wrong == "nan" else np.inf
        if wrong == "bad" and count and rows:
            with pytest.raises(InputError, match=rf"stream {streams[-1]}: modality .*inf"):
                together.push_all(**rows, at=at, streams=streams)
        else:
            together.push_all(**rows, at=at, streams=iter(streams))
            for place, n in enumerate(streams):
                alone.push(n, {m: array[place].copy() for m, array in rows.items()}, at=at)
        for array in rows.values():
            array[:] = np.nan  # the caller uses its memory again
        if seed % 3:
            continue
        for said, wanted in zip(together.update(at=at), alone.update(at=at), strict=True):
            assert (said is None) == (wanted is None)
            if said is not None and wanted is not None:
                np.testing.assert_array_equal(said.logits, wanted.logits)
                assert said.pattern == wanted.pattern
                assert (said.absent, said.dropped) == (wanted.absent, wanted.dropped)
    assert [s.frames for s in together] == [s.frames for s in alone]


@pytest.mark.parametrize(
    ("rows", "streams", "message"),
    [
        ({"a": np.zeros((3, 2, 5))}, None, r"got shape \(3, 2, 5\), wanted \(4 streams, frames"),
        ({"a": np.zeros((4, 5))}, None, r"got shape \(4, 5\), wanted \(4 streams, frames, 5\)"),
        ({"a": np.zeros((2, 1, 6))}, [0, 1], r"got shape \(2, 1, 6\), wanted \(2 streams, "),
        ({"a": [np.zeros((1, 5)), np.zeros((2, 5))] * 2}, None, "rows of one length"),
        ({"a": np.zeros((2, 1, 5))}, [1, 1], r"streams: got \[1, 1\], wanted numbers of some of 4"),
        ({"a": np.zeros((2, 1, 5))}, [1, 4], "streams: got 4, wanted numbers of some of 4"),
        ({"a": np.zeros((1, 1, 5))}, [-1], "streams: got -1, wanted numbers of some of 4"),
        ({"a": np.zeros((1, 1, 5))}, [0.5], "streams: got 0.5, wanted numbers of some of 4"),
        ({"a": np.zeros((1, 1, 5))}, 2, "streams: got 2, wanted numbers of some of 4"),
        ({"a": [np.zeros((2, 5)), np.zeros((2, 4))] * 2}, None, "rows of one length"),
        ({"a": np.zeros((1, 1, 5))}, np.array(3), "streams: got an object of type ndarray, wanted"),
        ({"a": np.zeros((1, 1, 5))}, [10**5000], "streams: got an integer of .* bits, wanted"),
        ({"a": np.zeros((2, 1, 5))}, {3, 1}, "in the order of the rows"),
    ],
)
def test_rows_that_fit_no_streams_are_refused(
    predictor: Predictor, rows: dict[str, Any], streams: Any, message: str
) -> None:
    group = predictor.streams(4)
    with pytest.raises(InputError, match=message):
        group.push_all(**rows, streams=streams)
    assert group.update() == [None] * 4


def test_what_was_joined_is_not_joined_again(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Summaries of a modality that heard nothing lie side by side already, until one is new."""
    noted = note_graphs(monkeypatch)
    group = Predictor(bundle, backend="onnxruntime-cpu").streams(3)
    joined = []
    for turn in range(4):
        if turn in (0, 3):
            group.push(1, v=noise("v", 4, turn))
        if turn == 0:
            group.push_all(v=np.stack([noise("v", 4, n) for n in range(3)]))
        group.push_all(a=np.stack([noise("a", 6, turn + n) for n in range(3)]))
        group.update()
        joined.append(noted.calls[-1][1]["v"])
    assert joined[1] is joined[2]
    assert joined[3] is not joined[2]


def test_a_row_that_waits_holds_no_others(predictor: Predictor) -> None:
    group = predictor.streams(3)
    group.push_all(a=np.zeros((3, 4, 5), np.float32))
    waiting = [stream.state.channels[Modality.A].waiting[0].frames for stream in group]
    assert all(frames.base is None for frames in waiting)


@pytest.mark.parametrize(
    ("options", "at", "message"),
    [
        ({"window": 1.0, "hop": 0.5}, None, "stream 2: .*pushed without a time after frames with"),
        ({"stale_after": {Modality.A: 1.0}}, 4.0, "stream 2: modality a: frames of 4 s came after"),
    ],
)
def test_rows_of_which_one_has_another_time_change_nothing(
    predictor: Predictor, options: Any, at: float | None, message: str
) -> None:
    group = predictor.streams(3, StreamOptions(**options))
    group[2].push(a=noise("a", 2, 0), at=5.0)
    before = [stream.snapshot() for stream in group]
    with pytest.raises(InputError, match=message):
        group.push_all(a=np.zeros((3, 2, 5), np.float32), at=at)
    assert [stream.snapshot() for stream in group] == before


def test_rows_are_heard_before_too_many_wait(predictor: Predictor) -> None:
    group = predictor.streams(3)
    frames = np.stack([noise("a", 300, n) for n in range(3)])
    for start in range(0, 300, 10):
        group.push_all(a=frames[:, start : start + 10])
        assert all(len(s.state.channels[Modality.A].waiting) <= 27 for s in group)
    for said, heard in zip(group.update(), frames, strict=True):
        assert said is not None
        np.testing.assert_allclose(said.logits, predictor.predict({"a": heard}).logits, atol=1e-4)


def test_streams_of_a_group_are_streams(predictor: Predictor) -> None:
    group = predictor.streams(3)
    assert len(group) == 3
    group[1].push(a=noise("a", 4, 0))
    group[1].set_text(noise("t", 3, 0))
    group[1].set_text(noise("t", 6, 1))
    assert [answer is None for answer in group.update()] == [True, False, True]
    wanted = predictor.predict({"a": noise("a", 4, 0), "t": noise("t", 6, 1)})
    np.testing.assert_allclose(group[1].predict().logits, wanted.logits, atol=1e-4)
    group[2].push(a=noise("a", 4, 0))
    group[0].resume(group[2].snapshot())  # what waits is heard first
    assert group[0].frames[Modality.A] == 4
    assert [stream.pattern is None for stream in group] == [False, False, False]


def test_a_group_hears_before_too_much_waits(predictor: Predictor) -> None:
    group = predictor.streams(2)
    for number in range(400):
        group.push(0, a=noise("a", 1, number))
        assert len(group[0].state.channels[Modality.A].waiting) <= 257
    assert len(group[0].state.channels[Modality.A].waiting) < 257
    heard = np.concatenate([noise("a", 1, number) for number in range(400)])
    (said, nothing) = group.update()
    assert said is not None
    assert nothing is None
    np.testing.assert_allclose(said.logits, predictor.predict({"a": heard}).logits, atol=1e-4)


def test_time_goes_on_for_all(predictor: Predictor, bundle: Path) -> None:
    group = predictor.streams(2, StreamOptions(stale_after={Modality.A: 1.0}))
    group.push(0, a=noise("a", 2, 0), at=1.0)
    group.push(1, a=noise("a", 2, 0), at=2.5)
    assert [answer is None for answer in group.update(at=2.5)] == [True, False]
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


def test_streams_of_many_threads_share_graphs(predictor: Predictor) -> None:
    def talk(seed: int) -> float:
        """How far it is from the same alone."""
        given = {letter: noise(letter, 60, seed) for letter in "at"}
        said: Any = None
        with predictor.stream() as stream:
            for n in range(60):
                stream.push({letter: frames[n : n + 1] for letter, frames in given.items()})
                said = stream.predict().logits
        return float(np.abs(said - predictor.predict(given).logits).max())

    with ThreadPoolExecutor(8) as threads:
        assert max(threads.map(talk, [*range(8)] * 3)) < 1e-4


def test_in_8_bits_a_stream_does_not_hear_its_neighbours(make_bundle: Any) -> None:
    """A scale that is found over a batch would let the loudest decide for all."""
    bundle = make_bundle(["a_t"], ("int8",))
    predictor = Predictor(bundle, backend="onnxruntime-cpu", precision="int8")
    alone, group = predictor.stream(), predictor.streams(2)
    loud = {"a": 100 * noise("a", 9, 5), "t": 100 * noise("t", 9, 5)}
    quiet = {"a": noise("a", 9, 1), "t": noise("t", 9, 1)}
    alone.push(quiet)
    for stream, given_frames in zip(group, (quiet, loud), strict=True):
        stream.push(given_frames)
    said, wanted = group.update()[0], alone.predict()
    assert said is not None
    np.testing.assert_array_equal(said.logits, wanted.logits)
    both = predictor.predict_batch([quiet, loud])
    np.testing.assert_array_equal(both[0].logits, predictor.predict(quiet).logits)


CPU = "onnxruntime-cpu"
HUGE = np.full((9, 11), 3e38, np.float32)
"""Of text: finite, but a sum of them is not."""
CALM = StreamOptions(smoothing=Smoothing(half_life=3.0))


@pytest.fixture(scope="module")
def partial(make_bundle: Callable[..., Path]) -> Path:
    """Without heads for a_v, v_t and a_v_t."""
    return make_bundle(("a", "v", "a_t"), shapes=("stream",))


def _spoken(group: StreamGroup, letters: str) -> None:
    """One modality or several of each stream."""
    for number, word in enumerate(letters.split()):
        group.push(number, {m: frames(m, 6, number) for m in word})


def test_a_missing_head_leaves_the_others(partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = note_graphs(monkeypatch)
    predictor = Predictor(partial, backend=CPU)
    group, alone = predictor.streams(5, CALM), predictor.streams(5, CALM)
    _spoken(group, "at av a v av")
    said = r"^streams 1, 4: the bundle has no head for streams of pattern a_v; it has a, v, a_t; "
    with pytest.raises(BundleError, match=said):
        group.update()
    noted.calls.clear()
    before = [stream.snapshot() for stream in group]
    with pytest.raises(BundleError, match=said):
        group.update()
    assert noted.calls == []  # all that could be answered was, the first time
    assert [stream.snapshot() for stream in group] == before
    # The others can be asked alone.
    assert str(group[0].predict().pattern) == "a_t"
    with pytest.raises(BundleError, match=r"^the bundle has no head"):
        group[1].predict()
    for number in (1, 4):
        group[number].drop("v")
    answers = group.update()
    assert noted.called("head") == ["a"]  # of what is new
    assert noted.called("summary") == []
    _spoken(alone, "at a a v a")
    for answer, wanted in zip(answers, alone.update(), strict=True):
        assert answer is not None
        assert wanted is not None
        assert answer.pattern == wanted.pattern
        np.testing.assert_allclose(answer.logits, wanted.logits, atol=1e-5)


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
    wrong = event("push", t=HUGE.tolist())
    lines = [event("push", a=frames("a", 5)), wrong, event("clear", modality="t")]
    ran = run(bundle, "--stream", "-", "--smooth", 2, stdin=lines)
    first, refused, last = ran.answers
    assert (ran.code, refused["line"]) == (1, 2)
    assert "the answer is not a number" in refused["error"]
    assert last["probabilities"] == pytest.approx(first["probabilities"], abs=1e-5)


@pytest.mark.parametrize("number", [3, -4, 2.5, "0", None, True])
def test_what_is_no_stream_of_the_group(bundle: Path, number: Any) -> None:
    group = Predictor(bundle, backend=CPU).streams(3)
    with pytest.raises(InputError, match=r"stream 1: modality a \(acoustic\): got shape"):
        group.push(1, a=np.zeros((3, 4), np.float32))
    with pytest.raises(InputError, match=r"stream: got .*, wanted the number of one of 3 streams"):
        group.push(number, a=frames("a", 2))
    group.push(-1, a=frames("a", 2))
    assert [answer is None for answer in group.update()] == [True, True, False]


def test_many_streams_are_not_all_named() -> None:
    one = {number: InputError("it is late") for number in range(60)}
    assert str(merge_errors(one)) == "streams 0, 1, 2, 3, 4, 5, 6, 7 and 52 more: it is late"
    two = merge_errors({7: BundleError("none here"), 2: InputError("no number")})
    assert isinstance(two, BundleError)
    assert str(two) == "stream 2: no number; stream 7: none here"
