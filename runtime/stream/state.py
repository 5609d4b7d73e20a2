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
from ..validate import Policy, Quality, Usable, too_poor, usable_frames
from .graphs import Parts
from .options import Smoother, StreamOptions, moment
from .window import Lane, Segment, Stepper, Timeline, own, rounding, same

Summaries = Sequence[NDArray[np.float32]]
"""Per modality of a pattern (1, S)."""
Concluded = tuple[NDArray[np.float32], int, NDArray[np.float32]]
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
    """As in `Loaded`."""

    @classmethod
    def load(cls, parts: Parts, pattern: Pattern) -> Head:
        """Of a pattern; the caller holds the lock of the parts."""
        loaded, letters = parts.head(pattern), [m.value for m in pattern]
        return cls(pattern, str(pattern), letters, loaded.run, loaded.placement)


class Answered(NamedTuple):
    """The last answer, and what it was made of."""

    head: Head
    summaries: Summaries
    logits: NDArray[np.float32]
    """(C,)"""

    def with_summary(self, now: NDArray[np.float32], before: object) -> Answered:
        """The same, made of an equal summary in the place of another."""
        return self._replace(summaries=[now if one is before else one for one in self.summaries])


class Arrived(NamedTuple):
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
_NOTHING_ARRIVED = Arrived()


@dataclass
class Channel:
    """What is known of a modality. Its graphs run elsewhere, for many channels at once."""

    modality: Modality
    stepper: Stepper
    timeline: Timeline
    options: StreamOptions
    arrived: Arrived = _NOTHING_ARRIVED
    lanes: tuple[Lane, ...] = ()
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
        self.arrived, self.lanes = _NOTHING_ARRIVED, ()
        self.why_absent = why
        self.dropped_frames = self.late_frames = 0
        self.wait_no_more()
        self.pooled = self.summary = None

    def wait(self, segments: Sequence[Segment]) -> None:
        """Keep frames to be heard later."""
        for segment in segments:
            self.waiting.append(segment)
            self.waiting_frames += len(segment.frames)

    def append(self, new: Usable) -> None:
        """Keep frames that came without a time, all of which count; where time is not divided."""
        self.arrived, segments = self.plan(new, None)
        self.wait(segments)

    def wait_no_more(self) -> None:
        """They were heard, or are not wanted any more."""
        self.waiting.clear()
        self.waiting_frames = 0

    def part(self) -> None:
        """Keep arrays of its own: what falls silent must not hold those of all that go on."""
        self.lanes = tuple([lane.owned() for lane in self.lanes])
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
        newest = self.arrived.newest
        if at is None or newest is None or at >= newest - rounding(at, newest):
            return False
        if self.options.late == "refuse":
            raise InputError(
                f"modality {self.modality}: frames of {at:.14g} s came after those of "
                f"{newest:.14g} s; push in order of time, or choose late='append' or late='skip' "
                "(--late)"
            )
        return True

    def plan(self, new: Usable, at: float | None) -> tuple[Arrived, list[Segment]]:
        """What will be known once new frames are there, and how they are cut.

        at: time of the last one that can be heard.
        """
        old = self.arrived
        newest = old.newest if at is None else max(at, at if old.newest is None else old.newest)
        if self.is_simple:  # time is not divided: no need to look at it
            now = Arrived(old.frames + new.given, 0, newest, at is not None)
            return now, [Segment(0, new.frames)]
        if old.timed not in (None, at is not None):
            known, given = ("with", "without") if old.timed else ("without", "with")
            raise InputError(
                f"modality {self.modality}: pushed {given} a time after frames {known} one; where "
                "the past is cut, give every push of a modality a time, or none"
            )
        segments = self.timeline.cut(new.frames, old.frames, at, old.hop, new.kept)
        heard = Arrived(old.frames, segments[-1].hop, newest, at is not None)
        return _passed(heard, new.given, self.timeline), segments

    def plan_anew(self, new: Usable, at: float | None) -> tuple[Arrived, list[Segment]]:
        """The same for frames that take the place of all others, whole."""
        hop = 0 if at is None else self.timeline.hop_at(at)
        return Arrived(new.given, hop, at, at is not None), [Segment(hop, new.frames)]

    def pass_over(self, frames: int) -> Arrived:
        """What will be known once frames came of which none can be heard: their time passes."""
        return _passed(self.arrived, frames, self.timeline)

    def enter(self, lanes: Sequence[Lane], hop: int) -> Sequence[Lane]:
        """The lanes that hear frames of a hop: old ones gone, and one that begins."""
        if self.is_simple:
            return lanes or [Lane()]
        kept = alive(lanes, hop, self.options)
        return kept if kept and kept[-1].begun == hop else [*kept, Lane(hop)]

    def answering(self, now: float | None) -> Lane | None:
        """The lane that answers at a time: the oldest in the window."""
        lanes: Sequence[Lane] = self.lanes
        if self.options.window is not None:
            hop = self.arrived.hop
            if self.arrived.timed and now is not None:
                hop = self.timeline.hop_at(now)
            lanes = lanes if hop is None else alive(lanes, hop, self.options)
        return lanes[0] if lanes else None

    def counting(self, now: float | None) -> Lane | str:
        """The lane that answers at a time, or why the modality does not count."""
        if self.arrived.hop is None:
            return self.why_absent
        if self.dropped:
            return "dropped"
        limit, newest = self.options.stale_after.get(self.modality), self.arrived.newest
        if limit is not None and newest is not None and now is not None and now - newest > limit:
            return f"silent for {now - newest:.3g} s, more than {limit:g}"
        lane = self.answering(now)
        return "nothing in the window" if lane is None else lane


def _passed(heard: Arrived, frames: int, timeline: Timeline) -> Arrived:
    """What is known once frames came; where they have no times, they also say how late it is."""
    count, hop = heard.frames + frames, heard.hop
    reached = None if hop is None or heard.timed else timeline.hop_of(count - 1)
    if hop is not None and reached is not None:
        hop = max(hop, reached)
    return Arrived(count, hop, heard.newest, heard.timed)


def alive(lanes: Sequence[Lane], hop: int, options: StreamOptions) -> list[Lane]:
    """The lanes that began within the window that ends with a hop."""
    return [lane for lane in lanes if lane.begun > hop - options.lanes]


Evidence = list[tuple[Channel, NDArray[np.float32]]]
"""The channels that count, in canonical order, with what each pooled, (1, P)."""
_NO_FRAMES = np.empty((0, 0), np.float32)


class Intake(NamedTuple):
    """What was given for a modality and found good, before any graph has seen it."""

    channel: Channel
    arrived: Arrived
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
    def lanes(self) -> tuple[Lane, ...]:
        """What the graphs start from."""
        return () if self.anew else self.channel.lanes

    def copied(self) -> Intake:
        """With frames of its own."""
        return self._replace(segments=[Segment(hop, x.copy()) for hop, x in self.segments])


@dataclass
class Rules:
    """What all streams of a predictor share."""

    specs: Mapping[Modality, ModalitySpec]
    policy: Policy
    options: StreamOptions


class Session:
    """The state of a stream. Frames are planned first and taken over after they were heard."""

    def __init__(self, rules: Rules, steppers: Mapping[Modality, Stepper]) -> None:
        self.rules = rules
        options = rules.options
        self.channels = {
            m: Channel(
                m, stepper, Timeline(m, options.seconds_per_hop, rules.specs[m].frame_rate), options
            )
            for m, stepper in steppers.items()
        }
        self.smoother = Smoother(options.smoothing) if options.smoothing else None
        self._in_order = [(m, self.channels.get(m)) for m in MODALITIES]
        self.origin = 0.0
        """The time at which the first hop of every modality begins."""
        self.now: float | None = None
        """The newest time that was heard of."""
        self.answered: Answered | None = None
        self.concluded: Concluded | None = None
        self.absent: dict[Modality, str] = {}
        """Why modalities did not count when that was last asked."""
        self.dropped_frames: dict[Modality, int] = {}
        """Frames left out because of a NaN, where there were some when that was last asked."""

    def plan(
        self, given: Mapping[Any, Any], at: float | None, quality: Quality | None
    ) -> list[Intake]:
        """New frames of some modalities, checked and cut; nothing has changed yet."""
        found = []
        for letter, value in given.items():
            if value is not None:
                found.append(self._plan(self.channel(letter), value, at, quality))
            elif letter not in self.channels:
                Modality.of(letter)
        return found

    def plan_text(self, tokens: Any, at: float | None) -> Intake:
        """All tokens, in place of those heard so far; None and no tokens clear the text."""
        channel, same = self.channel(Modality.T), self.channel(Modality.T).arrived
        new = Usable(_NO_FRAMES, "cleared") if tokens is None else self._usable(channel, tokens)
        late = channel.is_late(at)
        if late and self.rules.options.late == "skip":
            return Intake(channel, same, (), new.dropped, late=len(new.frames))
        if new.reason is not None:
            return Intake(channel, Arrived(), (), new.dropped, why=new.reason, anew=True)
        moment = same.newest if late else self.now if at is None else at
        arrived, segments = channel.plan_anew(new, moment)
        return Intake(channel, arrived, segments, new.dropped, anew=True)

    def take(self, intake: Intake) -> None:
        """Note what arrived."""
        channel = intake.channel
        if intake.anew:
            channel.clear(intake.why or "cleared")
        channel.arrived = intake.arrived
        channel.dropped_frames += intake.dropped
        channel.late_frames += intake.late
        if intake.why is not None and channel.arrived.hop is None:
            channel.why_absent = intake.why

    def keep(self, intakes: Sequence[Intake], at: float | None) -> None:
        """Let frames wait to be heard; nobody else may change them."""
        for intake in intakes:
            self.take(intake)
            intake.channel.wait(intake.segments)
        self.reach(at)

    def _plan(
        self, channel: Channel, value: Any, at: float | None, quality: Quality | None
    ) -> Intake:
        policy = self.rules.policy
        poor = None if quality is None else too_poor(channel.modality, policy, quality)
        if poor is not None:
            # Its values are not looked at, but a sensor spent their time.
            return Intake(channel, channel.pass_over(_length(value)), why=poor)
        return self.plan_usable(channel, self._usable(channel, value), at)

    def plan_usable(self, channel: Channel, new: Usable, at: float | None) -> Intake:
        """New frames of a modality of which it is known what counts, cut; nothing has changed."""
        if new.reason is not None:
            return Intake(channel, channel.pass_over(new.given), (), new.dropped, why=new.reason)
        if at is None:
            return Intake(channel, *channel.plan(new, None), new.dropped)
        at = channel.timeline.ahead(at, new.behind)
        late = channel.is_late(at)
        if late and self.rules.options.late == "skip":
            return Intake(channel, channel.arrived, (), new.dropped, late=len(new.frames))
        # Late frames are heard in the order in which they come: as if they were the newest.
        arrived, segments = channel.plan(new, channel.arrived.newest if late else at)
        return Intake(channel, arrived, segments, new.dropped)

    def moment(self, at: float | None) -> float | None:
        """A given time, or the clock's; InputError where it is none."""
        options = self.rules.options
        return None if at is None and options.clock is None else moment(options, at)

    def reach(self, at: float | None) -> None:
        """Let time go on; it never goes back."""
        if at is not None:
            self.now = at if self.now is None else max(self.now, at)

    def set_origin(self, origin: float) -> None:
        """Count hops from another time on."""
        self.origin = origin
        for channel in self.channels.values():
            channel.timeline.origin = origin

    def channel(self, letter: str) -> Channel:
        """A modality's channel; InputError where the bundle has none."""
        found: Channel | None
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
            if channel.endless and channel.lanes and not channel.dropped:
                pooled = channel.lanes[0].pooled  # in most answers, without a call
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
        last = self.answered
        return last is not None and last.head.name == head.name and same(last.summaries, summaries)

    def part(self, channel: Channel) -> None:
        """Let a channel keep arrays of its own; what was answered stays what it was made of."""
        before = channel.summary
        channel.part()
        if self.answered is not None and channel.summary is not None:
            self.answered = self.answered.with_summary(channel.summary, before)

    def reset(self) -> None:
        """Forget everything, as if the stream had just begun."""
        for channel in self.channels.values():
            channel.clear("not given")
            channel.dropped = False
        if self.rules.options.smoothing:
            self.smoother = Smoother(self.rules.options.smoothing)
        self.now, self.answered = None, None
        self.set_origin(0.0)

    def _usable(self, channel: Channel, value: Any) -> Usable:
        return usable_frames(channel.modality, value, self.rules.specs, self.rules.policy)


def _length(value: Any) -> int:
    """Frames of what was not looked at; whatever has no length has none."""
    try:
        return len(value)
    except TypeError:
        return 0
