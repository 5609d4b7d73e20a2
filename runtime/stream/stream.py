"""A stream: frames of any modality in, at any moment the answer of what was heard so far."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.prediction import Prediction
from ifmmin.runtime.stream.conclude import Concluder
from ifmmin.runtime.stream.engine import Engine
from ifmmin.runtime.stream.given import given_once
from ifmmin.runtime.stream.session import Intake, Rules, Session
from ifmmin.runtime.stream.snapshot import restore, snapshot
from ifmmin.runtime.stream.timeline import Segment
from ifmmin.runtime.validate import Quality, Utterance


class Stream:
    """A conversation as it goes on: `predictor.stream()` gives one.

    After any pushes `predict` gives what `Predictor.predict` says of all frames pushed so far, at a
    cost that does not grow with them. An error changes nothing; the stream can be used on. Not for
    use from two threads at once; different streams may be used from different threads.
    """

    def __init__(
        self, engine: Engine, rules: Rules, concluder: Concluder, *, waits: bool = False
    ) -> None:
        self._engine = engine
        self._concluder = concluder
        self._waits = waits
        self.session = Session(rules, engine.steppers)

    def push(
        self,
        frames: Utterance | None = None,
        /,
        *,
        a: Any = None,
        v: Any = None,
        t: Any = None,
        at: float | None = None,
        quality: Quality | None = None,
    ) -> None:
        """New frames of some modalities, (N, D) each, appended to those before.

        frames: the same as a mapping. at: time of the newest of them in seconds; earlier ones of
        the same push lie a frame's duration apart. quality: as in `Predictor.predict`; what is too
        poor is not heard, nor is nothing but NaNs: only its time passes. Raises InputError.
        """
        given = {"a": a, "v": v, "t": t}
        if frames is not None:
            given = given_once(frames, given)
        at = self.session.moment(at)
        self._hear(self.session.plan(given, at, quality), at)

    def set_text(self, tokens: Any, *, at: float | None = None) -> None:
        """All token states, (N, D), in place of the text so far; None and no tokens clear it.

        For recognisers that revise what they heard, and for language models that look both ways:
        there a new word changes the states of all words before it. at: when it was so, in seconds;
        what is older than the text so far follows `late`, as pushed frames do. Raises InputError.
        """
        at = self.session.moment(at)
        self._hear([self.session.plan_text(tokens, at)], at)

    def predict(self, *, at: float | None = None) -> Prediction:
        """The answer now. at: the time, where it went on since the last push.

        Raises InputError where nothing counts, unless the predictor answers with the prior.
        """
        self._catch_up(at)
        answered, seconds = self._engine.answer_one(self.session)
        return self._concluder.one(self.session, answered, seconds)

    def clear(self, modality: str) -> None:
        """Forget what a modality said: it is missing until it is pushed again."""
        self.session.channel(modality).clear("cleared")

    def drop(self, modality: str) -> None:
        """Leave a modality out, until `restore`; it goes on listening."""
        self.session.channel(modality).dropped = True

    def restore(self, modality: str) -> None:
        """Let a dropped modality count again, with all that it heard."""
        self.session.channel(modality).dropped = False

    def reset(self) -> None:
        """Forget everything, as if the stream had just begun."""
        self.session.reset()

    def snapshot(self) -> bytes:
        """All that has to be kept to go on later, or elsewhere. Not the frames."""
        self._catch_up()
        return snapshot(self.session, self._engine.identity)

    def resume(self, content: bytes) -> None:
        """Go on from a snapshot of the same network, on whatever device it was taken.

        With a clock of its own a stream goes on where it stopped, as if no time had passed. Raises
        InputError where the bytes are damaged, of another network or of other stream options.
        """
        now = self.session.moment(None)
        restore(self.session, content, self._engine.identity, now)

    @property
    def pattern(self) -> Pattern | None:
        """What counts now; None where nothing does."""
        self._catch_up()
        counting = [channel.modality for channel, _ in self.session.evidence()]
        return Pattern.of(counting) if counting else None

    @property
    def frames(self) -> dict[Modality, int]:
        """Frames per modality that an answer is of now: with a window those within it."""
        self._catch_up()
        lanes = {m: c.answering(self.session.now) for m, c in self.session.channels.items()}
        return {m: lane.frames if lane else 0 for m, lane in lanes.items()}

    def flush(self) -> None:
        """Hear what waits."""
        hear_waiting(self._engine, [self.session])

    def _catch_up(self, at: float | None = None) -> None:
        """Hear what waits, and let time go on: to a moment, or to where the clock is."""
        if self._waits:
            self.flush()
        self.session.reach(self.session.moment(at))

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.session.reset()

    def _hear(self, intakes: Sequence[Intake], at: float | None) -> None:
        """Let frames be heard, all of them or, after an error, none."""
        if self._waits:
            # Before anything is taken: what fails to be heard must not be heard twice.
            if is_enough(intakes):
                self.flush()
            # Copied: the caller may use its memory again.
            self.session.keep([intake.copied() for intake in intakes], at)
            return
        heard = self._engine.hear([(i.channel, i.lanes, i.segments) for i in intakes])
        for intake, lanes in zip(intakes, heard, strict=True):
            self.session.take(intake)
            intake.channel.lanes = lanes
        self.session.reach(at)


def is_enough(intakes: Sequence[Intake]) -> bool:
    """Whether so much waits already that it has to be heard first."""
    return any([intake.channel.is_full for intake in intakes])


def hear_waiting(engine: Engine, sessions: Sequence[Session]) -> None:
    """Let all that waits in some streams be heard, together."""
    channels = []
    for session in sessions:
        for channel in session.channels.values():
            if channel.waiting:
                channels.append(channel)
            elif channel.shares:
                session.part(channel)
    if not channels:
        return
    heard = engine.hear([(c, c.lanes, merged(c.waiting)) for c in channels])
    for channel, lanes in zip(channels, heard, strict=True):
        channel.lanes, channel.shares = lanes, True
        channel.wait_no_more()


def merged(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours of one hop as one segment."""
    if len(segments) == 1:
        return list(segments)
    found: list[list[Segment]] = []
    for segment in segments:
        if found and found[-1][0].hop == segment.hop:
            found[-1].append(segment)
        else:
            found.append([segment])
    return [
        group[0] if len(group) == 1
        else Segment(group[0].hop, np.concatenate([s.frames for s in group]))
        for group in found
    ]  # fmt: skip
