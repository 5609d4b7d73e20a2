"""One stream's state, apart from the graphs: what arrived, what counts, what was answered last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.manifest import ModalitySpec
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.runtime.stream.answers import Answered, Concluded, Head, Summaries
from ifmmin.runtime.stream.channel import Arrived, Channel
from ifmmin.runtime.stream.joined import same
from ifmmin.runtime.stream.lane import Lane, Stepper
from ifmmin.runtime.stream.moment import moment
from ifmmin.runtime.stream.options import StreamOptions
from ifmmin.runtime.stream.smoothing import Smoother
from ifmmin.runtime.stream.timeline import Segment, Timeline
from ifmmin.runtime.validate import Policy, Quality, Usable, too_poor, usable_frames

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
