"""State of one stream, apart from the graphs: what arrived, what counts, what was answered last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..backends import Runner
from ..bundle import ModalitySpec
from ..errors import InputError
from ..modality import MODALITIES, Modality, Pattern
from ..validate import Policy, Quality, ValidFrames, below_quality, valid_frames
from .graphs import StreamGraphs
from .options import Smoother, StreamOptions, resolve_time
from .window import EncoderState, HopClock, Segment, StepRunner, own, rounding, same

Summaries = Sequence[NDArray[np.float32]]
"""Per modality of a pattern (1, S)."""
LastPrediction = tuple[NDArray[np.float32], int, NDArray[np.float32]]
"""Logits, the winning class, probabilities: of an answer that nothing changed since."""


class Head(NamedTuple):
    """The head graph of a pattern, loaded and ready."""

    pattern: Pattern
    name: str
    """The pattern's."""
    letters: Sequence[str]
    """Its inputs, in canonical order."""
    run: Runner
    placement: Mapping[str, int]
    """As in `LoadedGraph`."""

    @classmethod
    def load(cls, graphs: StreamGraphs, pattern: Pattern) -> Head:
        """Of a pattern; the caller holds the lock of the parts."""
        loaded, letters = graphs.head(pattern), [m.value for m in pattern]
        return cls(pattern, str(pattern), letters, loaded.run, loaded.placement)


class LastAnswer(NamedTuple):
    """The last answer, and what it was made of."""

    head: Head
    summaries: Summaries
    logits: NDArray[np.float32]
    """(C,)"""

    def with_summary(self, now: NDArray[np.float32], before: object) -> LastAnswer:
        """The same, made of an equal summary in the place of another."""
        return self._replace(summaries=[now if one is before else one for one in self.summaries])


class Progress(NamedTuple):
    """What is known of frames as soon as they are there."""

    frames: int = 0
    """Frames that came since the modality was cleared, also those that could not be heard: without
    times they are its clock."""
    hop: int | None = None
    """The newest hop in which one fell; None before one was heard."""
    newest: float | None = None
    """Time of the newest one that was heard."""
    timed: bool | None = None
    """Whether frames come with times; None before the first."""


_MOST_WAITING = 256
"""Frames of a modality that may wait to be heard together."""
_NOTHING_ARRIVED = Progress()


@dataclass
class ModalityState:
    """What is known of a modality. Its graphs run elsewhere, for many modality states at once."""

    modality: Modality
    step_runner: StepRunner
    clock: HopClock
    options: StreamOptions
    progress: Progress = _NOTHING_ARRIVED
    encoders: tuple[EncoderState, ...] = ()
    """What the graphs made of the frames, oldest first."""
    dropped: bool = False
    """Left out for now, though it goes on listening."""
    why_absent: str = "not given"
    dropped_frames: int = 0
    """Frames left out because of a NaN since the modality was cleared."""
    late_frames: int = 0
    """Frames left out because they came late."""
    waiting: list[Segment] = field(default_factory=list)
    """Frames that arrived and that no graph has seen yet."""
    waiting_frames: int = 0
    pooled: NDArray[np.float32] | None = None
    """(1, P), what `summary` was made of."""
    summary: NDArray[np.float32] | None = None
    """(1, S)"""
    shares: bool = False
    """Whether its arrays may be rows of those of many streams."""

    def __post_init__(self) -> None:
        # Asked at every push and every answer.
        self.is_simple = self.options.window is None
        """Whether time is not divided, so that frames without a time can only be appended."""
        self.endless = self.is_simple and not self.options.stale_after

    def clear(self, why: str) -> None:
        """Forget everything, and say why nothing is here."""
        self.progress, self.encoders = _NOTHING_ARRIVED, ()
        self.why_absent = why
        self.dropped_frames = self.late_frames = 0
        self.forget_pending()
        self.pooled = self.summary = None

    def wait(self, segments: Sequence[Segment]) -> None:
        """Keep frames to be heard later."""
        for segment in segments:
            self.waiting.append(segment)
            self.waiting_frames += len(segment.frames)

    def append(self, new: ValidFrames) -> None:
        """Keep frames that came without a time, all of which count; where time is not divided."""
        self.progress, segments = self.plan(new, None)
        self.wait(segments)

    def forget_pending(self) -> None:
        """They were heard, or are not wanted any more."""
        self.waiting.clear()
        self.waiting_frames = 0

    def detach(self) -> None:
        """Keep arrays of its own: what falls silent must not hold those of all that go on."""
        self.encoders = tuple([encoder.owned() for encoder in self.encoders])
        if self.pooled is not None and self.summary is not None:
            self.pooled, self.summary = own(self.pooled), own(self.summary)
        self.shares = False

    @property
    def is_full(self) -> bool:
        """Whether so much waits that it has to be heard before more comes."""
        return self.waiting_frames > _MOST_WAITING

    def is_summarised(self, pooled: NDArray[np.float32]) -> bool:
        """Whether the summary at hand is that of what is pooled now, (1, P).

        A running maximum changes seldom once a stream is some seconds old, and bytes are compared
        in a hundredth of the time that a summary and a head take.
        """
        if self.pooled is None or self.summary is None:
            return False
        return self.pooled is pooled or self.pooled.tobytes() == pooled.tobytes()

    def is_late(self, at: float | None) -> bool:
        """Whether frames of that time are older than the newest; InputError where refused."""
        newest = self.progress.newest
        if at is None or newest is None or at >= newest - rounding(at, newest):
            return False
        if self.options.late == "refuse":
            raise InputError(
                f"modality {self.modality}: frames of {at:.14g} s came after those of "
                f"{newest:.14g} s; push in order of time, or choose late='append' or late='skip' "
                "(--late)"
            )
        return True

    def plan(self, new: ValidFrames, at: float | None) -> tuple[Progress, list[Segment]]:
        """What will be known once new frames are there, and how they are cut.

        at: time of the last one that can be heard.
        """
        old = self.progress
        newest = old.newest if at is None else max(at, at if old.newest is None else old.newest)
        if self.is_simple:  # time is not divided: no need to look at it
            now = Progress(old.frames + new.given, 0, newest, at is not None)
            return now, [Segment(0, new.frames)]
        if old.timed not in (None, at is not None):
            known, given = ("with", "without") if old.timed else ("without", "with")
            raise InputError(
                f"modality {self.modality}: pushed {given} a time after frames {known} one; where "
                "the past is cut, give every push of a modality a time, or none"
            )
        segments = self.clock.cut(new.frames, old.frames, at, old.hop, new.kept)
        heard = Progress(old.frames, segments[-1].hop, newest, at is not None)
        return _passed(heard, new.given, self.clock), segments

    def plan_anew(self, new: ValidFrames, at: float | None) -> tuple[Progress, list[Segment]]:
        """The same for frames that take the place of all others, whole."""
        hop = 0 if at is None else self.clock.hop_at(at)
        return Progress(new.given, hop, at, at is not None), [Segment(hop, new.frames)]

    def pass_over(self, frames: int) -> Progress:
        """What will be known once frames came of which none can be heard: their time passes."""
        return _passed(self.progress, frames, self.clock)

    def enter(self, encoders: Sequence[EncoderState], hop: int) -> Sequence[EncoderState]:
        """The encoder states that hear frames of a hop: old ones gone, and one that begins."""
        if self.is_simple:
            return encoders or [EncoderState()]
        kept = alive(encoders, hop, self.options)
        return kept if kept and kept[-1].begun == hop else [*kept, EncoderState(hop)]

    def answering(self, now: float | None) -> EncoderState | None:
        """The encoder state that answers at a time: the oldest in the window."""
        encoders: Sequence[EncoderState] = self.encoders
        if self.options.window is not None:
            hop = self.progress.hop
            if self.progress.timed and now is not None:
                hop = self.clock.hop_at(now)
            encoders = encoders if hop is None else alive(encoders, hop, self.options)
        return encoders[0] if encoders else None

    def counting(self, now: float | None) -> EncoderState | str:
        """The encoder state that answers at a time, or why the modality does not count."""
        if self.progress.hop is None:
            return self.why_absent
        if self.dropped:
            return "dropped"
        limit, newest = self.options.stale_after.get(self.modality), self.progress.newest
        if limit is not None and newest is not None and now is not None and now - newest > limit:
            return f"silent for {now - newest:.3g} s, more than {limit:g}"
        encoder = self.answering(now)
        return "nothing in the window" if encoder is None else encoder


def _passed(heard: Progress, frames: int, clock: HopClock) -> Progress:
    """What is known once frames came; where they have no times, they also say how late it is."""
    count, hop = heard.frames + frames, heard.hop
    reached = None if hop is None or heard.timed else clock.hop_of(count - 1)
    if hop is not None and reached is not None:
        hop = max(hop, reached)
    return Progress(count, hop, heard.newest, heard.timed)


def alive(encoders: Sequence[EncoderState], hop: int, options: StreamOptions) -> list[EncoderState]:
    """The encoder states that began within the window that ends with a hop."""
    return [encoder for encoder in encoders if encoder.begun > hop - options.window_count]


Evidence = list[tuple[ModalityState, NDArray[np.float32]]]
"""The modality states that count, in canonical order, with what each pooled, (1, P)."""
_NO_FRAMES = np.empty((0, 0), np.float32)


class PendingFrames(NamedTuple):
    """What was given for a modality and found good, before any graph has seen it."""

    channel: ModalityState
    progress: Progress
    segments: Sequence[Segment] = ()
    """Empty where nothing of it can be used."""
    dropped: int = 0
    """Frames left out because of a NaN."""
    late: int = 0
    """Frames left out because they came late."""
    why: str | None = None
    """Why nothing of it can be used."""
    anew: bool = False
    """It takes the place of all that the channel heard."""

    @property
    def encoders(self) -> tuple[EncoderState, ...]:
        """What the graphs start from."""
        return () if self.anew else self.channel.encoders

    def copied(self) -> PendingFrames:
        """With frames of its own."""
        return self._replace(segments=[Segment(hop, x.copy()) for hop, x in self.segments])


@dataclass
class StreamRules:
    """What all streams of a predictor share."""

    specs: Mapping[Modality, ModalitySpec]
    policy: Policy
    options: StreamOptions


class StreamState:
    """The state of a stream. Frames are planned first and taken over after they were heard."""

    def __init__(self, rules: StreamRules, step_runners: Mapping[Modality, StepRunner]) -> None:
        self.rules = rules
        options = rules.options
        self.channels = {
            m: ModalityState(
                m,
                step_runner,
                HopClock(m, options.seconds_per_hop, rules.specs[m].frame_rate),
                options,
            )
            for m, step_runner in step_runners.items()
        }
        self.smoother = Smoother(options.smoothing) if options.smoothing else None
        self._in_order = [(m, self.channels.get(m)) for m in MODALITIES]
        self.origin = 0.0
        """The time at which the first hop of every modality begins."""
        self.now: float | None = None
        """The newest time that was heard of."""
        self.last_answer: LastAnswer | None = None
        self.last_prediction: LastPrediction | None = None
        self.absent: dict[Modality, str] = {}
        """Why modalities did not count when that was last asked."""
        self.dropped_frames: dict[Modality, int] = {}
        """Frames left out because of a NaN, where there were some when that was last asked."""

    def plan(
        self, given: Mapping[Any, Any], at: float | None, quality: Quality | None
    ) -> list[PendingFrames]:
        """New frames of some modalities, checked and cut; nothing has changed yet."""
        found = []
        for letter, value in given.items():
            if value is not None:
                found.append(self._plan(self.channel(letter), value, at, quality))
            elif letter not in self.channels:
                Modality.of(letter)
        return found

    def plan_text(self, tokens: Any, at: float | None) -> PendingFrames:
        """All tokens, in place of those heard so far; None and no tokens clear the text."""
        channel, same = self.channel(Modality.T), self.channel(Modality.T).progress
        new = ValidFrames(_NO_FRAMES, "cleared") if tokens is None else self._valid(channel, tokens)
        late = channel.is_late(at)
        if late and self.rules.options.late == "skip":
            return PendingFrames(channel, same, (), new.dropped, late=len(new.frames))
        if new.reason is not None:
            return PendingFrames(channel, Progress(), (), new.dropped, why=new.reason, anew=True)
        newest = same.newest if late else self.now if at is None else at
        progress, segments = channel.plan_anew(new, newest)
        return PendingFrames(channel, progress, segments, new.dropped, anew=True)

    def commit(self, pending: PendingFrames) -> None:
        """Note what arrived."""
        channel = pending.channel
        if pending.anew:
            channel.clear(pending.why or "cleared")
        channel.progress = pending.progress
        channel.dropped_frames += pending.dropped
        channel.late_frames += pending.late
        if pending.why is not None and channel.progress.hop is None:
            channel.why_absent = pending.why

    def enqueue(self, pendings: Sequence[PendingFrames], at: float | None) -> None:
        """Let frames wait to be heard; nobody else may change them."""
        for pending in pendings:
            self.commit(pending)
            pending.channel.wait(pending.segments)
        self.reach(at)

    def _plan(
        self, channel: ModalityState, value: Any, at: float | None, quality: Quality | None
    ) -> PendingFrames:
        policy = self.rules.policy
        poor = None if quality is None else below_quality(channel.modality, policy, quality)
        if poor is not None:
            # Its values are not looked at, but a sensor spent their time.
            return PendingFrames(channel, channel.pass_over(_length(value)), why=poor)
        return self.plan_valid(channel, self._valid(channel, value), at)

    def plan_valid(
        self, channel: ModalityState, new: ValidFrames, at: float | None
    ) -> PendingFrames:
        """New frames of a modality of which it is known what counts, cut; nothing has changed."""
        if new.reason is not None:
            return PendingFrames(
                channel, channel.pass_over(new.given), (), new.dropped, why=new.reason
            )
        if at is None:
            return PendingFrames(channel, *channel.plan(new, None), new.dropped)
        at = channel.clock.ahead(at, new.behind)
        late = channel.is_late(at)
        if late and self.rules.options.late == "skip":
            return PendingFrames(channel, channel.progress, (), new.dropped, late=len(new.frames))
        # Late frames are heard in the order in which they come: as if they were the newest.
        progress, segments = channel.plan(new, channel.progress.newest if late else at)
        return PendingFrames(channel, progress, segments, new.dropped)

    def resolve_time(self, at: float | None) -> float | None:
        """A given time, or the clock's; InputError where it is none."""
        options = self.rules.options
        return None if at is None and options.clock is None else resolve_time(options, at)

    def reach(self, at: float | None) -> None:
        """Let time go on; it never goes back."""
        if at is not None:
            self.now = at if self.now is None else max(self.now, at)

    def set_origin(self, origin: float) -> None:
        """Count hops from another time on."""
        self.origin = origin
        for channel in self.channels.values():
            channel.clock.origin = origin

    def channel(self, letter: str) -> ModalityState:
        """A modality's channel; InputError where the bundle has none."""
        found: ModalityState | None
        try:
            # A modality is found by its letter, too.
            found = self.channels.get(letter)  # type: ignore[call-overload]
        except TypeError:
            found = None
        if found is None:
            known = ", ".join(m.value for m in self.channels)
            modality = Modality.of(letter)
            raise InputError(f"this bundle knows no modality {modality}; it knows {known}")
        return found

    def evidence(self) -> Evidence:
        """What counts now; `absent` and `dropped_frames` are from then on of this moment."""
        found: Evidence = []
        absent: dict[Modality, str] = {}
        dropped: dict[Modality, int] = {}
        for modality, channel in self._in_order:
            if channel is None:
                absent[modality] = "not given"
                continue
            if channel.dropped_frames:
                dropped[modality] = channel.dropped_frames
            if channel.endless and channel.encoders and not channel.dropped:
                pooled = channel.encoders[0].pooled  # in most answers, without a call
                assert pooled is not None
                found.append((channel, pooled))
                continue
            counting = channel.counting(self.now)
            if isinstance(counting, str):
                absent[modality] = counting
            else:
                assert counting.pooled is not None
                found.append((channel, counting.pooled))
        self.absent, self.dropped_frames = absent, dropped
        return found

    def has_answered(self, head: Head, summaries: Summaries) -> bool:
        """Whether the last answer is that of these very summaries."""
        last = self.last_answer
        return last is not None and last.head.name == head.name and same(last.summaries, summaries)

    def detach(self, channel: ModalityState) -> None:
        """Let a channel keep arrays of its own; what was answered stays what it was made of."""
        before = channel.summary
        channel.detach()
        if self.last_answer is not None and channel.summary is not None:
            self.last_answer = self.last_answer.with_summary(channel.summary, before)

    def reset(self) -> None:
        """Forget everything, as if the stream had just begun."""
        for channel in self.channels.values():
            channel.clear("not given")
            channel.dropped = False
        if self.rules.options.smoothing:
            self.smoother = Smoother(self.rules.options.smoothing)
        self.now, self.last_answer = None, None
        self.set_origin(0.0)

    def _valid(self, channel: ModalityState, value: Any) -> ValidFrames:
        return valid_frames(channel.modality, value, self.rules.specs, self.rules.policy)


def _length(value: Any) -> int:
    """Frames of what was not looked at; whatever has no length has none."""
    try:
        return len(value)
    except TypeError:
        return 0
