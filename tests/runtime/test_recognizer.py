"""Recognizer: signals become features of the right front-end, whole and as they come."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from run_command import SHAPES
from small_bundles import copied, edit

from ifmmin.runtime import (
    BackendUnavailable,
    BundleError,
    InputError,
    Modality,
    Predictor,
    Recognizer,
    StreamOptions,
)
from ifmmin.runtime.frontends.base import FrontEnd, State, require_state
from ifmmin.runtime.frontends.sound import Sound, as_sound
from ifmmin.runtime.frontends.spec import FrontEndSpec

RATE, STEP = 1000, 100
DIMS = {letter: dim for letter, (_, dim) in SHAPES.items()}


class Loudness:
    """A front-end for sound: five powers of the mean size of every 100 samples, none of silence."""

    def __init__(self, dim: int = DIMS["a"], version: int = 1) -> None:
        self._spec = FrontEndSpec(
            kind="loudness", version=version, dim=dim, frame_rate=10.0, features="loudness"
        )
        self._rest = np.zeros(0, np.float32)

    def describe(self) -> FrontEndSpec:
        return self._spec

    def whole(self, signal: Any) -> NDArray[np.float32]:
        return self._features(as_sound(signal).samples)[0]

    def stream(self, signal: Any, *, last: bool = False) -> NDArray[np.float32]:
        samples = np.concatenate([self._rest, as_sound(signal).samples]).astype(np.float32)
        found, self._rest = self._features(samples)
        return found

    def reset(self, state: State | None = None) -> None:
        empty = np.zeros(0, np.float32)
        self._rest = empty if state is None else require_state(state, {"rest": empty})["rest"]

    def state(self) -> State:
        return {"rest": self._rest.copy()}

    def _features(self, samples: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        count = len(samples) // STEP
        sizes = np.abs(samples[: count * STEP]).reshape(count, STEP).mean(axis=1, keepdims=True)
        powers = np.arange(1, self._spec.dim + 1)
        return (sizes**powers).astype(np.float32)[sizes[:, 0] > 0], samples[count * STEP :]


class Letters:
    """A front-end for words: a row per letter."""

    def describe(self) -> FrontEndSpec:
        return FrontEndSpec(
            kind="letters", version=1, dim=DIMS["t"], frame_rate=None, features="letters"
        )

    def whole(self, signal: Any) -> NDArray[np.float32]:
        rows = [np.sin(np.arange(DIMS["t"]) * ord(letter)) for letter in signal]
        return np.array(rows, np.float32).reshape(-1, DIMS["t"])

    def stream(self, signal: Any, *, last: bool = False) -> NDArray[np.float32]:
        return self.whole(signal)

    def reset(self, state: State | None = None) -> None:
        require_state(state or {}, {})

    def state(self) -> State:
        return {}


FRONT_ENDS: dict[str, FrontEnd] = {"a": Loudness(), "t": Letters()}


@pytest.fixture(scope="module")
def recognizer(predictor: Predictor) -> Recognizer:
    return Recognizer(predictor, frontends=FRONT_ENDS)


def loud(count: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, count).astype(np.float32)


def test_signals_are_answered_as_their_features(
    recognizer: Recognizer, predictor: Predictor
) -> None:
    samples = loud(2000)
    answer = recognizer.recognize(sound=(samples, RATE), text="fine")
    features = {"a": Loudness().whole((samples, RATE)), "t": Letters().whole("fine")}
    np.testing.assert_array_equal(answer.logits, predictor.predict(features).logits)
    assert str(answer.pattern) == "a_t"
    alone = recognizer.recognize(sound=Sound(samples, RATE), text="fine", pattern="a")
    np.testing.assert_array_equal(alone.logits, predictor.predict({"a": features["a"]}).logits)
    assert recognizer.modalities == (Modality.A, Modality.T)
    assert recognizer.labels == predictor.labels
    assert recognizer.patterns == predictor.patterns


def test_a_signal_with_nothing_in_it_is_missing(recognizer: Recognizer) -> None:
    silence = np.zeros(2000, np.float32)
    answer = recognizer.recognize(sound=(silence, RATE), text="fine")
    assert str(answer.pattern) == "t"
    assert answer.absent[Modality.A] == "no speech was found in it"
    with pytest.raises(InputError, match="sound: no speech was found in it; text: no words"):
        recognizer.recognize(sound=(silence, RATE), text="")
    with pytest.raises(InputError, match="no modality is present"):
        recognizer.recognize()


def test_words_that_are_not_given_are_transcribed(predictor: Predictor) -> None:
    heard = []

    def transcribe(sound: Sound) -> str:
        heard.append(len(sound.samples))
        return "fine"

    hearing = Recognizer(predictor, frontends=FRONT_ENDS, transcribe=transcribe)
    samples = loud(700)
    told = hearing.recognize(sound=(samples, RATE), text="fine")
    assert heard == []
    answer = hearing.recognize(sound=(samples, RATE))
    assert heard == [700]
    np.testing.assert_array_equal(answer.logits, told.logits)


def test_another_front_end_is_refused(predictor: Predictor, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="makes 6 features a frame, the bundle takes 5"):
        Recognizer(predictor, frontends={"a": Loudness(dim=6)})
    own = copied(bundle, tmp_path)
    spec = Loudness().describe()
    kept = {"kind": spec.kind, "version": 1, "dim": 5, "frame_rate": 10.0, "features": "loudness"}
    edit(own, lambda manifest: manifest["modalities"]["a"].__setitem__("frontend", kept))
    assert Recognizer(own, frontends={"a": Loudness()}).modalities == (Modality.A,)
    with pytest.raises(InputError, match=f"wanted|made for {spec.identity}"):
        Recognizer(own, frontends={"a": Loudness(version=2)})
    with pytest.raises(BackendUnavailable, match="has no front-end loudness"):
        Recognizer(own).recognize(sound=(loud(200), RATE))
    features = {"a": Loudness().whole((loud(2000), RATE))}
    named = Predictor(own)
    named.predict(features, frontends={"a": spec.identity})
    with pytest.raises(InputError, match=f"ge2e-1-abc, wanted those of {spec.identity}"):
        named.predict(features, frontends={"a": "ge2e-1-abc"})
    with pytest.raises(InputError, match="the bundle names none"):
        predictor.predict(features, frontends={"a": spec.identity})


def test_what_the_bundle_takes_none_of(predictor: Predictor) -> None:
    plain = Recognizer(predictor)
    with pytest.raises(BundleError, match="takes no sound, only features of 5 numbers"):
        plain.recognize(sound=(loud(200), RATE))
    with pytest.raises(BundleError, match="takes no text"):
        plain.recognize(text="fine")
    with pytest.raises(InputError, match="give the options to it"):
        Recognizer(predictor, threads=2)
    with pytest.raises(BundleError, match="does not cut recordings"):
        next(Recognizer(predictor, frontends=FRONT_ENDS).utterances((loud(9), RATE)))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 2000), max_size=5))
def test_a_stream_hears_the_same_in_any_pieces(recognizer: Recognizer, cuts: list[int]) -> None:
    samples = loud(2000)
    whole = recognizer.recognize(sound=(samples, RATE), text="fine")
    with recognizer.stream() as stream:
        for piece in np.split(samples, sorted(cuts)):
            stream.push_sound(piece, RATE)
        stream.set_text("fine")
        answer = stream.predict()
        assert answer.pattern == stream.pattern == whole.pattern
        assert stream.frames[Modality.A] == 20
        np.testing.assert_allclose(answer.logits, whole.logits, atol=1e-5)
        stream.clear("a")
        assert str(stream.pattern) == "t"
        stream.set_text(None)
        with pytest.raises(InputError):
            stream.predict()


def test_a_snapshot_goes_on_elsewhere(recognizer: Recognizer, predictor: Predictor) -> None:
    samples = loud(2050)
    first, second = recognizer.stream(), Recognizer(predictor, frontends=FRONT_ENDS).stream()
    first.push_sound(samples[:1030], RATE)
    second.resume(first.snapshot())
    for stream in (first, second):
        stream.push_sound(samples[1030:], RATE)
    np.testing.assert_array_equal(first.predict().logits, second.predict().logits)
    assert second.frames[Modality.A] == 20
    second.reset()
    assert second.pattern is None


@pytest.mark.parametrize("place", [0, 25, 60, 200, -1])
def test_damaged_snapshots_are_refused(recognizer: Recognizer, place: int) -> None:
    stream = recognizer.stream()
    stream.push_sound(loud(1030), RATE)
    before = stream.predict().logits
    content = bytearray(stream.snapshot())
    content[place] ^= 0xFF
    with pytest.raises(InputError, match="snapshot"):
        stream.resume(bytes(content))
    for wrong in (b"", stream.features.snapshot()):
        with pytest.raises(InputError, match="no snapshot of a recognizer"):
            stream.resume(wrong)
    np.testing.assert_array_equal(stream.predict().logits, before)


def test_a_snapshot_of_another_front_end_is_refused(predictor: Predictor) -> None:
    stream = Recognizer(predictor, frontends={"a": Loudness()}).stream()
    stream.push_sound(loud(1030), RATE)
    other = Recognizer(predictor, frontends={"a": Loudness(version=2)}).stream()
    with pytest.raises(InputError, match="the snapshot is of the front-end loudness-1"):
        other.resume(stream.snapshot())


def test_time_goes_on_with_the_sound(recognizer: Recognizer) -> None:
    stream = recognizer.stream(StreamOptions(window=2.0, hop=1.0))
    stream.push_sound(loud(1000), RATE)
    assert str(stream.pattern) == "a"
    stream.push_sound(np.zeros(4000, np.float32), RATE)
    with pytest.raises(InputError, match="nothing in the window"):
        stream.predict()
    with pytest.raises(InputError, match="wanted 5 or later"):
        stream.push_sound(loud(10), RATE, at=1.0)


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (None, {}, "sound"),
    (3, {}, "wanted \\(N,\\) or"),
    ([[1.0, 2.0], [3.0]], {}, "no array"),
    ([0.5], {"rate": 0}, "got a rate of 0"),
    ([0.5], {"rate": "16000"}, "got a rate of '16000'"),
    ([0.5], {"at": "now"}, "time: got 'now'"),
    ([0.5], {"at": np.nan}, "time: got nan"),
    ([0.5], {"at": 0.0}, "wanted 1.03 or later"),
]


@pytest.mark.parametrize(("samples", "more", "message"), WRONG)
def test_a_piece_that_is_wrong_is_not_heard(
    recognizer: Recognizer, samples: Any, more: dict[str, Any], message: str
) -> None:
    stream = recognizer.stream()
    stream.push_sound(loud(1030), RATE)
    wanted, before = stream.predict(), stream.snapshot()
    with pytest.raises(InputError, match=message):
        stream.push_sound(samples, **{"rate": RATE, **more})
    assert stream.snapshot() == before
    assert np.array_equal(stream.predict().logits, wanted.logits)


def test_what_cannot_make_features_or_words_is_refused(predictor: Predictor) -> None:
    with pytest.raises(InputError, match="modality a: got int, wanted a front-end"):
        Recognizer(predictor, frontends={"a": 1})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="transcribe: got int"):
        Recognizer(predictor, transcribe=1)  # type: ignore[arg-type]


def test_copies_are_made_of_the_arguments(predictor: Predictor, bundle: Path) -> None:
    recognizer = Recognizer(bundle, frontends=FRONT_ENDS, backend="onnxruntime-cpu")
    wanted = recognizer.recognize(text="fine").logits
    for other in (pickle.loads(pickle.dumps(recognizer)), copy.deepcopy(recognizer)):
        np.testing.assert_array_equal(other.recognize(text="fine").logits, wanted)
