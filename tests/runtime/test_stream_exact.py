"""Random sessions against a slow model that keeps every frame: the answers are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from small_bundles import ALL, small_bundle
from stream_model import LETTERS, StreamModel

from ifmmin.runtime import InputError, Modality, Predictor, StreamOptions

DIMS = {"a": 5, "v": 7, "t": 11}
TOLERANCE = 1e-4
STEPS, SESSIONS = 40, 30
"""Per kind of session; three kinds make more than 3,000 steps."""

_letters = st.sampled_from(LETTERS)
_seeds = st.integers(0, 2**16)
_PREDICTOR: list[Predictor] = []


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory, make_network: Any) -> Predictor:
    bundle: Path = small_bundle(make_network, tmp_path_factory, ALL)
    made = Predictor(bundle, backend="onnxruntime-cpu")
    _PREDICTOR[:] = [made]
    return made


def _frames(letter: str, count: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    # Walks, as speech and faces do, so that answers move with what was heard last.
    steps = rng.standard_normal((count, DIMS[letter])).cumsum(axis=0)
    return (steps / np.sqrt(np.arange(1, count + 1))[:, None]).astype(np.float32)


class Session(RuleBasedStateMachine):
    """All that may happen to a stream; after every step it is asked."""

    options = StreamOptions()
    window: float | None = None
    hop = 1.0
    stale: ClassVar[dict[str, float]] = {}
    timed = False

    @initialize()
    def begin(self) -> None:
        """A stream and its model."""
        self.predictor = _PREDICTOR[0]
        self.stream = self.predictor.stream(self.options)
        self.model = StreamModel(self.predictor, self.window, self.hop, self.stale)
        self.time = 0.0

    def moment(self, passed: float) -> float | None:
        """The time of what is pushed next."""
        self.time += passed
        return self.time if self.timed else None

    @rule(
        letters=st.sets(_letters, min_size=1),
        count=st.integers(1, 9),
        seed=_seeds,
        passed=st.floats(0.9, 4.0),
    )
    def push(self, letters: set[str], count: int, seed: int, passed: float) -> None:
        """Frames of one modality or several."""
        at = self.moment(passed)
        given = {letter: _frames(letter, count, seed) for letter in sorted(letters)}
        self.stream.push(given, at=at)
        for letter, frames in given.items():
            self.model.push(letter, frames, at)

    @rule(letter=_letters, seed=_seeds, passed=st.floats(0.0, 2.0))
    def push_one(self, letter: str, seed: int, passed: float) -> None:
        """One frame, as they come."""
        at = self.moment(passed)
        self.stream.push({letter: _frames(letter, 1, seed)}, at=at)
        self.model.push(letter, _frames(letter, 1, seed), at)

    @rule(passed=st.floats(0.0, 2.0))
    def wait(self, passed: float) -> None:
        """Time goes on."""
        at = self.moment(passed)
        if at is not None:
            self.model.now = at
            self.stream.session.reach(at)

    @rule(letter=_letters)
    def push_nothing(self, letter: str) -> None:
        """No frames, and frames of nothing but NaN."""
        self.stream.push({letter: np.empty((0, DIMS[letter]), np.float32)})
        self.stream.push({letter: np.full((2, DIMS[letter]), np.nan, np.float32)})

    @rule(letter=_letters)
    def clear(self, letter: str) -> None:
        """A camera is covered."""
        self.stream.clear(letter)
        self.model.clear(letter)

    @rule(letter=_letters)
    def drop(self, letter: str) -> None:
        """A modality is left out for now."""
        self.stream.drop(letter)
        self.model.heard[letter].dropped = True

    @rule(letter=_letters)
    def restore(self, letter: str) -> None:
        """It counts again."""
        self.stream.restore(letter)
        self.model.heard[letter].dropped = False

    @rule(count=st.integers(0, 8), seed=_seeds, passed=st.floats(0.9, 4.0))
    def set_text(self, count: int, seed: int, passed: float) -> None:
        """A recogniser revises its words."""
        at = self.moment(passed)
        tokens = _frames("t", count, seed)
        self.stream.set_text(tokens, at=at)
        self.model.set_text(tokens, at)

    @rule()
    def reset(self) -> None:
        """Somebody else sits down."""
        self.stream.reset()
        self.model.reset()

    @rule(elsewhere=st.booleans())
    def move(self, elsewhere: bool) -> None:
        """The session outlives its process, or goes on where it was."""
        kept = self.stream.snapshot()
        if elsewhere:
            self.stream = self.predictor.stream(self.options)
        else:
            self.stream.push(a=_frames("a", 3, 1), at=self.time if self.timed else None)
        self.stream.resume(kept)

    @rule(letter=_letters, fault=st.sampled_from(["width", "nan", "text", "late"]))
    def mistake(self, letter: str, fault: str) -> None:
        """Whatever a caller does wrong changes nothing."""
        wrong: Any = _frames(letter, 3, 0)
        if fault == "width":
            wrong = wrong[:, 1:]
        elif fault == "nan":
            wrong[1, 0] = np.nan
        elif fault == "text":
            wrong = "happy"
        at: Any = "noon" if fault == "late" else self.moment(0.0)
        other = "v" if letter == "a" else "a"
        with pytest.raises(InputError):
            self.stream.push({other: _frames(other, 2, 0), letter: wrong}, at=at)

    @invariant()
    def is_exact(self) -> None:
        """What the stream says is what an utterance of all that counts says."""
        if not hasattr(self, "stream"):
            return
        evidence = self.model.evidence()
        if not evidence:
            with pytest.raises(InputError, match="no modality is present"):
                self.stream.predict()
            assert self.stream.pattern is None
            return
        said = self.stream.predict()
        assert said.pattern is not None
        assert {m.value for m in said.pattern} == set(evidence) == set("avt") - set(said.absent)
        wanted = self.predictor.predict(evidence)
        np.testing.assert_allclose(said.logits, wanted.logits, atol=TOLERANCE, rtol=TOLERANCE)
        assert said.label == wanted.label
        frames = self.stream.frames
        assert {m: frames[m] for m in said.pattern} == {m: len(x) for m, x in evidence.items()}


class WindowSession(Session):
    """The last three seconds, counted in frames."""

    window, hop = 3.0, 0.5
    options = StreamOptions(window=3.0, hop=0.5)


class TimedSession(Session):
    """The last six seconds by the clock; a silent camera counts as missing."""

    window, hop, timed = 6.0, 2.0, True
    stale: ClassVar[dict[str, float]] = {"v": 2.5}
    options = StreamOptions(window=6.0, hop=2.0, stale_after={Modality.V: 2.5})


@pytest.mark.parametrize("kind", [Session, WindowSession, TimedSession])
def test_a_stream_says_what_the_whole_says(predictor: Predictor, kind: type[Session]) -> None:
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=SESSIONS, stateful_step_count=STEPS, deadline=None,
            suppress_health_check=quiet,
        ),
    )  # fmt: skip
