"""Random sessions against a slow model that hears every frame alone: the answers are the same.

Times are whole milliseconds, so that a hop's end is exact wherever zero lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from numpy.typing import NDArray
from run_command import DIMS

from ifmmin.runtime import InputError, Modality, Predictor, StreamOptions
from ifmmin.runtime.validate import Policy

LETTERS = ("a", "v", "t")
DURATION = 100
"""From one frame of the small networks to the next."""
TOLERANCE = 1e-4
STEPS, SESSIONS = 40, 18
"""Per kind of session; four kinds make more than 2,800 steps."""
EPOCH = 1_763_000_000_150
"""Milliseconds since 1970, not at a hop's end."""

_letters = st.sampled_from(LETTERS)
_seeds = st.integers(0, 2**16)
_passed = st.integers(0, 80).map(lambda count: 50 * count)
"""Milliseconds, so that frames often begin where a hop ends."""
_holes = st.sets(st.integers(0, 8), max_size=4)
"""Frames with a NaN."""
_PREDICTORS: dict[str, Predictor] = {}


@dataclass
class Heard:
    """The frames of one modality with their hops."""

    frames: list[NDArray[np.float32]] = field(default_factory=list)
    hops: list[int] = field(default_factory=list)
    came: int = 0
    """Frames, also those that could not be heard."""
    reached: int | None = None
    """The hop up to which its own time went on; None before anything was heard."""
    timed: bool = False
    newest: int | None = None
    late: int = 0
    dropped: bool = False


class StreamModel:
    """Frames in lists; a stream must answer as `Predictor.predict` does to those that count.

    window, hop: milliseconds; the frames that count began in a hop of the last `window`. stale: per
    modality milliseconds of silence after which it is missing. late: as in `StreamOptions`.
    """

    def __init__(self, window: int | None, hop: int, stale: Mapping[str, float], late: str) -> None:
        self._window, self._hop, self._stale, self._late = window, hop, stale, late
        self.reset()

    def reset(self) -> None:
        self.heard = {letter: Heard() for letter in LETTERS}
        self.now: int | None = None

    def reach(self, at: int | None) -> None:
        if at is not None:
            self.now = at if self.now is None else max(at, self.now)

    def refuses(self, given: Mapping[str, NDArray[np.float32]], at: int | None) -> bool:
        """Whether frames of any modality are late, and that is an error."""
        late = [
            self._is_late(self.heard[letter], _last(frames, valid(frames), at))
            for letter, frames in given.items()
        ]
        return self._late == "refuse" and any(late)

    def push(self, letter: str, frames: NDArray[np.float32], at: int | None) -> None:
        """Frames (N, D), the newest of them at a time; those with a NaN are not heard."""
        heard, good = self.heard[letter], valid(frames)
        self.reach(at)
        last = _last(frames, good, at)
        if self._is_late(heard, last):
            if self._late == "skip":
                heard.late += len(good)
                return
            last = heard.newest
        before, heard.came = heard.came, heard.came + len(frames)
        for number in good:
            steps = before + number if last is None else number - good[-1]
            self._hear(letter, frames[number], ((last or 0) + steps * DURATION) // self._hop)
        if good:
            heard.timed, heard.newest = at is not None, last
        if heard.reached is not None and not heard.timed:
            heard.reached = max(heard.reached, (heard.came - 1) * DURATION // self._hop)

    def set_text(self, tokens: NDArray[np.float32], at: int | None) -> None:
        """All tokens (N, D) anew, all of one moment."""
        old, good = self.heard["t"], valid(tokens)
        late = self._is_late(old, at)
        moment = old.newest if late else self.now if at is None else at
        self.reach(at)
        if late and self._late == "skip":
            old.late += len(good)
            return
        self.clear("t")
        heard = self.heard["t"]
        if good:
            heard.came, heard.timed, heard.newest = len(tokens), moment is not None, moment
            for number in good:
                self._hear("t", tokens[number], 0 if moment is None else moment // self._hop)

    def refuses_text(self, at: int | None) -> bool:
        """Whether tokens are late, and that is an error."""
        return self._late == "refuse" and self._is_late(self.heard["t"], at)

    def clear(self, letter: str) -> None:
        self.heard[letter] = Heard(dropped=self.heard[letter].dropped)

    def evidence(self) -> dict[str, NDArray[np.float32]]:
        """The frames that count now."""
        found = {}
        for letter, heard in self.heard.items():
            frames = self._within(heard)
            if len(frames) and not heard.dropped and not self._is_stale(letter, heard):
                found[letter] = np.stack(frames)
        return found

    def _hear(self, letter: str, frame: NDArray[np.float32], hop: int) -> None:
        """A frame, which belongs to the hop reached where it is older."""
        heard = self.heard[letter]
        heard.reached = hop if heard.reached is None else max(hop, heard.reached)
        heard.frames.append(frame)
        heard.hops.append(heard.reached)

    def _is_late(self, heard: Heard, at: int | None) -> bool:
        return at is not None and heard.newest is not None and at < heard.newest

    def _is_stale(self, letter: str, heard: Heard) -> bool:
        if letter not in self._stale or heard.newest is None or self.now is None:
            return False
        return self.now - heard.newest > self._stale[letter]

    def _within(self, heard: Heard) -> list[NDArray[np.float32]]:
        if self._window is None or heard.reached is None:
            return heard.frames
        now = heard.reached
        if heard.timed and self.now is not None:
            now = self.now // self._hop
        first = now - self._window // self._hop + 1
        return [frame for frame, hop in zip(heard.frames, heard.hops, strict=True) if hop >= first]


def valid(frames: NDArray[np.float32]) -> list[int]:
    """The numbers of the frames without a NaN."""
    return [number for number, frame in enumerate(frames) if not np.isnan(frame).any()]


def _last(frames: NDArray[np.float32], good: list[int], at: int | None) -> int | None:
    """The time of the last frame that can be heard; None where there is none."""
    return None if at is None or not good else at - (len(frames) - 1 - good[-1]) * DURATION


@pytest.fixture(scope="module", autouse=True)
def predictors(bundle: Path) -> None:
    lenient = Policy(nan_frames="drop", minimum_quality={Modality.V: 0.5})
    for name, policy in (("strict", Policy()), ("lenient", lenient)):
        _PREDICTORS[name] = Predictor(bundle, backend="onnxruntime-cpu", policy=policy)


def _frames(letter: str, count: int, seed: int, holes: Any = ()) -> Any:
    rng = np.random.default_rng(seed)
    # Walks, as speech and faces do, so that answers move with what was heard last.
    steps = rng.standard_normal((count, DIMS[letter])).cumsum(axis=0)
    made = (steps / np.sqrt(np.arange(1, count + 1))[:, None]).astype(np.float32)
    made[[n for n in holes if n < count], seed % DIMS[letter]] = np.nan
    return made


class StreamState(RuleBasedStateMachine):
    """All that may happen to a stream; after every step it is asked. Times are milliseconds."""

    window: int | None = None
    hop = 1000
    stale: ClassVar[dict[str, float]] = {}
    policy = "strict"
    timed = False
    time = 0
    lain: int = 0
    """How long the session was laid aside, of which a clock of its own knows nothing."""

    @initialize(late=st.sampled_from(["refuse", "skip", "append"]),
                start=st.sampled_from([0, -7350, EPOCH, -EPOCH]), seed=_seeds)  # fmt: skip
    def begin(self, late: str, start: int, seed: int) -> None:
        """A stream and its model."""
        self.predictor = _PREDICTORS[self.policy]
        self.time = start
        self.options = self.make_options(late)
        self.stream = self.predictor.stream(self.options)
        self.model = StreamModel(self.window, self.hop, self.stale, late)
        self.speak(seed)

    def make_options(self, late: str) -> StreamOptions:
        """Those of this kind of session."""
        return StreamOptions(
            window=None if self.window is None else self.window / 1000,
            hop=None if self.window is None else self.hop / 1000,
            stale_after={Modality.of(m): limit / 1000 for m, limit in self.stale.items()},
            late=late,
        )

    def moment(self, passed: int) -> tuple[float | None, int | None]:
        """The time of what comes next, for the stream and for its model."""
        self.time += passed
        return (self.time / 1000, self.time) if self.timed else (None, None)

    def catch_up(self) -> None:
        """What is asked may know the time by itself."""

    def holed(self, letter: str, count: int, seed: int, holes: set[int]) -> Any:
        """Frames, some with a NaN where that is no mistake."""
        return _frames(letter, count, seed, () if self.policy == "strict" else holes)

    def give(self, given: dict[str, Any], times: tuple[float | None, int | None]) -> None:
        """Push frames, also late ones."""
        at, model_at = times
        if self.model.refuses(given, model_at):
            with pytest.raises(InputError, match="came after those of"):
                self.stream.push(given, at=at)
            return
        self.stream.push(given, at=at)
        for letter, frames in given.items():
            self.model.push(letter, frames, model_at)

    def speak(self, seed: int) -> None:
        """Most sessions begin with all modalities: of an empty one there is little to find."""
        if seed % 8:
            given = {letter: _frames(letter, 1 + seed % 9, seed) for letter in LETTERS}
            self.give(given, self.moment(0))

    @rule(letters=st.sets(_letters, min_size=1), count=st.integers(1, 9), seed=_seeds,
          passed=_passed, holes=_holes)  # fmt: skip
    def push(self, letters: set[str], count: int, seed: int, passed: int, holes: set[int]) -> None:
        """Frames of one modality or several."""
        given = {letter: self.holed(letter, count, seed, holes) for letter in sorted(letters)}
        self.give(given, self.moment(passed))

    @rule(letter=_letters, seed=_seeds, passed=_passed)
    def push_one(self, letter: str, seed: int, passed: int) -> None:
        """One frame, as they come."""
        self.give({letter: _frames(letter, 1, seed)}, self.moment(passed // 2))

    @rule(letter=_letters, count=st.integers(1, 9), seed=_seeds, back=_passed, holes=_holes)
    def push_late(self, letter: str, count: int, seed: int, back: int, holes: set[int]) -> None:
        """Frames of a while ago, which may be older than the newest."""
        if self.timed:
            at = self.time - back
            self.give({letter: self.holed(letter, count, seed, holes)}, (at / 1000, at))

    @rule(passed=_passed)
    def wait(self, passed: int) -> None:
        """Time goes on."""
        at, model_at = self.moment(passed // 2)
        self.stream.state.reach(at)
        self.model.reach(model_at)

    @rule(letter=_letters, count=st.integers(1, 30))
    def push_nothing(self, letter: str, count: int) -> None:
        """No frames, and frames of nothing but NaN, whose time passes."""
        self.stream.push({letter: np.empty((0, DIMS[letter]), np.float32)})
        nothing = np.full((count, DIMS[letter]), np.nan, np.float32)
        self.stream.push({letter: nothing})
        self.model.push(letter, nothing, None)

    @rule(count=st.integers(1, 30), seed=_seeds)
    def push_poor(self, count: int, seed: int) -> None:
        """A face that is hardly seen, which is not heard."""
        if self.policy == "lenient":
            self.stream.push(v=_frames("v", count, seed), quality={"v": 0.3})
            self.model.push("v", np.full((count, DIMS["v"]), np.nan, np.float32), None)

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

    @rule(count=st.integers(0, 8), seed=_seeds, passed=_passed, back=_passed, holes=_holes)
    def set_text(self, count: int, seed: int, passed: int, back: int, holes: set[int]) -> None:
        """A recogniser revises its words, perhaps too late."""
        at, model_at = self.moment(passed)
        if seed % 2 and self.timed:
            at, model_at = (self.time - back) / 1000, self.time - back
        tokens = self.holed("t", count, seed, holes)
        given = tokens if count else None
        if self.model.refuses_text(model_at):
            with pytest.raises(InputError, match="came after those of"):
                self.stream.set_text(given, at=at)
            return
        self.stream.set_text(given, at=at)
        self.model.set_text(tokens, model_at)

    @rule(seed=_seeds)
    def reset(self, seed: int) -> None:
        """Somebody else sits down."""
        self.stream.reset()
        self.model.reset()
        self.lain = 0
        self.speak(seed)

    @rule(elsewhere=st.booleans(), passed=_passed)
    def move(self, elsewhere: bool, passed: int) -> None:
        """The session outlives its process, or goes on where it was."""
        self.moment(passed)
        self.catch_up()
        kept = self.stream.snapshot()
        if elsewhere:
            self.stream = self.predictor.stream(self.options)
        else:
            self.stream.push(a=_frames("a", 3, 1), at=self.moment(0)[0])
        self.lie(passed)
        self.stream.resume(kept)

    def lie(self, passed: int) -> None:
        """Between a snapshot and what goes on from it nothing happens."""

    @rule(letter=_letters, fault=st.sampled_from(["width", "infinite", "nan", "text", "noon"]))
    def mistake(self, letter: str, fault: str) -> None:
        """Whatever a caller does wrong changes nothing."""
        wrong: Any = _frames(letter, 3, 0)
        if fault == "width":
            wrong = wrong[:, 1:]
        elif fault == "text":
            wrong = "happy"
        elif fault == "infinite" or self.policy == "lenient":
            wrong[1, 0] = np.inf
        else:
            wrong[1, 0] = np.nan
        at: Any = "noon" if fault == "noon" else self.moment(0)[0]
        other = "v" if letter == "a" else "a"
        with pytest.raises(InputError):
            self.stream.push({other: _frames(other, 2, 0), letter: wrong}, at=at)

    @invariant()
    def is_exact(self) -> None:
        """What the stream says is what an utterance of all that counts says."""
        if not hasattr(self, "stream"):
            return
        self.catch_up()
        evidence = self.model.evidence()
        pattern, frames = self.stream.pattern, self.stream.frames
        assert {m.value for m in pattern or ()} == set(evidence)
        assert {m.value: frames[m] for m in pattern or ()} == {
            m: len(x) for m, x in evidence.items()
        }
        late = {m.value: c.late_frames for m, c in self.stream.state.channels.items()}
        assert late == {m: heard.late for m, heard in self.model.heard.items()}
        if not evidence:
            with pytest.raises(InputError, match="no modality is present"):
                self.stream.predict()
            return
        said, wanted = self.stream.predict(), self.predictor.predict(evidence).logits
        assert said.pattern == pattern
        assert set(said.absent) == set("avt") - set(evidence)
        np.testing.assert_allclose(said.logits, wanted, atol=TOLERANCE, rtol=TOLERANCE)


class WindowSession(StreamState):
    """The last three seconds, counted in frames, of which some are not to be heard."""

    window, hop, policy = 3000, 500, "lenient"


class TimedSession(StreamState):
    """The last seconds by given times; a silent camera counts as missing.

    Multiples of 0.7 are no floats, so that a hop's end is hard to tell.
    """

    window, hop, timed, policy = 4900, 700, True, "lenient"
    stale: ClassVar[dict[str, float]] = {"v": 2500.5}


class ClockSession(TimedSession):
    """The same by the stream's own clock, which goes on while the session lies somewhere."""

    timed = False

    def make_options(self, late: str) -> StreamOptions:
        return replace(super().make_options(late), clock=lambda: self.time / 1000)

    def moment(self, passed: int) -> tuple[float | None, int | None]:
        self.time += passed
        return None, self.time - self.lain

    def catch_up(self) -> None:
        self.model.reach(self.time - self.lain)

    def lie(self, passed: int) -> None:
        self.time += passed
        self.lain += passed


KINDS = (StreamState, WindowSession, TimedSession, ClockSession)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_says_what_the_whole_says(kind: type[StreamState]) -> None:
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=SESSIONS, stateful_step_count=STEPS, deadline=None,
            suppress_health_check=quiet,
        ),
    )  # fmt: skip
