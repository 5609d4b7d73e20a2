"""One modality of one stream: what it said, when, and whether it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.stream.joined import own
from ifmmin.runtime.stream.lane import Lane, Stepper
from ifmmin.runtime.stream.options import StreamOptions
from ifmmin.runtime.stream.timeline import Segment, Timeline, rounding
from ifmmin.runtime.validate import Usable


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
