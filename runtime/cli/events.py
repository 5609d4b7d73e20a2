"""Events of a session and the updates that answer them, a line of JSON each.

docs/run.md has the schema.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from ..console import json_line
from ..errors import InputError
from ..modality import Modality
from ..prediction import Prediction
from ..stream.stream import Stream
from .readers import Frames, Quality, decode_line, frames_by_letter


class _Event(msgspec.Struct, tag_field="event", forbid_unknown_fields=True, kw_only=True):
    """Something that happened; the name of its kind is in the field `event`."""

    id: str | int | None = None
    """Comes back with the answer."""
    at: float | None = None
    """When it happened, in seconds; of frames when the newest of them was there."""

    @property
    def kind(self) -> str:
        """Its name in a line."""
        return str(self.__struct_config__.tag)

    @property
    def begins_anew(self) -> bool:
        """Whether times may begin anew after it."""
        return False


class Push(_Event, tag="push", kw_only=True):
    """New frames of some modalities."""

    a: Frames | None = None
    v: Frames | None = None
    t: Frames | None = None
    quality: Quality | None = None

    def apply(self, stream: Stream) -> None:
        """Hear them."""
        frames = frames_by_letter(a=self.a, v=self.v, t=self.t)
        stream.push(frames, at=self.at, quality=self.quality.scores if self.quality else None)


class SetText(_Event, tag="set_text", kw_only=True):
    """All tokens, in place of those heard so far."""

    tokens: Frames | None

    def apply(self, stream: Stream) -> None:
        """Hear them instead; none clear the text."""
        stream.set_text(frames_by_letter(t=self.tokens).get("t"), at=self.at)


class _OfModality(_Event, kw_only=True):
    modality: str


class Clear(_OfModality, tag="clear"):
    """A modality is forgotten."""

    def apply(self, stream: Stream) -> None:
        """Forget it."""
        stream.clear(self.modality)


class Drop(_OfModality, tag="drop"):
    """A modality is left out for now."""

    def apply(self, stream: Stream) -> None:
        """Leave it out."""
        stream.drop(self.modality)


class Restore(_OfModality, tag="restore"):
    """A dropped modality counts again."""

    def apply(self, stream: Stream) -> None:
        """Let it count."""
        stream.restore(self.modality)


class Reset(_Event, tag="reset"):
    """Somebody else sits down: everything is forgotten."""

    @property
    def begins_anew(self) -> bool:
        """They do: a stream that was reset has no time."""
        return True

    def apply(self, stream: Stream) -> None:
        """Forget everything."""
        stream.reset()


class Tick(_Event, tag="tick"):
    """Time went on without frames."""

    def apply(self, stream: Stream) -> None:
        """Nothing but time moves, which the answer does; InputError where there is none."""
        if self.at is None and stream.state.rules.options.clock is None:
            raise InputError("a tick without `at` says nothing; give seconds, or --clock")


# Each has `apply`, which lets it happen to a stream; an InputError changes nothing.
Event = Push | SetText | Clear | Drop | Restore | Reset | Tick
_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_EXAMPLE = (
    '{"event": "push", "at": 1.25, "a": [[0.1, 0.2], [0.3, 0.4]]}; '
    "events are push, set_text, clear, drop, restore, reset, tick"
)


def read_event(line: bytes) -> Event:
    """The event in a line; InputError says where in the line it is not one."""
    return decode_line(_DECODER, line, _EXAMPLE)


@dataclass(frozen=True)
class Update:
    """The answer after an event."""

    line: int | None
    """Number of the event's line; None where silence was the event."""
    event: Event
    at: float | None
    """The newest time heard of, in seconds; None in a stream without times."""
    prediction: Prediction | None
    """None while nothing counts."""
    label: str | None
    """The winner; None where it was not sure enough, and while nothing counts."""
    absent: Mapping[Modality, str]
    """Why modalities do not count."""
    frames: Mapping[Modality, int]
    """Heard, per modality; with a window those within it."""
    dropped: Mapping[Modality, int]
    """Left out because of a NaN, where any were."""
    late: Mapping[Modality, int]
    """Left out because they came late, where any were."""
    seconds: float
    """From the event, read, to its answer."""


class Sink(Protocol):
    """Somewhere that updates are shown."""

    def show(self, update: Update) -> None:
        """Show an answer."""
        ...

    def fail(self, line: int | None, event: Event | None, message: str) -> None:
        """Show why an event has none; it is None where the line is no event."""
        ...


class EventProcessor:
    """Lets events happen to a stream, and answers after each.

    labels: of the bundle. threshold: probability below which no class is named.
    """

    def __init__(self, stream: Stream, labels: Sequence[str], threshold: float) -> None:
        self._stream = stream
        self._labels = list(labels)
        self._threshold = threshold

    def answer(self, line: int | None, event: Event) -> Update:
        """The answer after an event; raises IfmminError where it cannot happen or be answered."""
        session = self._stream.state
        if event.at is not None and session.rules.options.clock is not None:
            raise InputError(
                f"got `at` {event.at:g}, but the clock stamps what arrives; leave out one of them"
            )
        started = time.perf_counter()
        event.apply(self._stream)
        prediction = self._answer(event.at)
        seconds = time.perf_counter() - started
        return Update(
            line,
            event,
            session.now,
            prediction,
            self._name(prediction),
            dict(session.absent),
            self._stream.frames,
            dict(session.dropped_frames),
            {m: c.late_frames for m, c in session.channels.items() if c.late_frames},
            seconds,
        )

    def _answer(self, at: float | None) -> Prediction | None:
        at = self._stream.state.resolve_time(at)
        try:
            return self._stream.predict(at=at)
        except InputError:
            if self._stream.pattern is not None:
                raise
            return None

    def _name(self, prediction: Prediction | None) -> str | None:
        if prediction is None:
            return None
        share = float(prediction.probabilities[self._labels.index(prediction.label)])
        return prediction.label if share >= self._threshold else None


Write = Callable[[str], None]
"""Takes a line without its end."""


class UpdateLines:
    """An object a line, for events without an answer too: who waits for a line gets one.

    labels: of the bundle. top_k: classes to rank; 0: none.
    """

    def __init__(self, labels: Sequence[str], top_k: int, write: Write) -> None:
        self._labels = labels
        self._top_k = top_k
        self._write = write

    def show(self, update: Update) -> None:
        """Write the answer."""
        said = update.prediction
        shares = dict(zip(self._labels, said.probabilities.tolist(), strict=True)) if said else None
        line: dict[str, object] = {
            **_head(update.line, update.event),
            "at": update.at,
            "pattern": str(said.pattern) if said and said.pattern else None,
            "label": update.label,
            "probabilities": shares,
            "logits": said.to_dict()["logits"] if said else None,
        }
        if self._top_k and shares is not None:
            ranked = sorted(shares.items(), key=lambda pair: -pair[1])[: self._top_k]
            line["top"] = [{"label": label, "probability": share} for label, share in ranked]
        line["frames"] = {m.value: count for m, count in update.frames.items()}
        told = {"absent": update.absent, "dropped_frames": update.dropped,
                "late_frames": update.late}  # fmt: skip
        line |= {k: {m.value: x for m, x in found.items()} for k, found in told.items() if found}
        line |= {"backend": said.backend if said else None, "seconds": update.seconds}
        self._write(json_line(line))

    def fail(self, line: int | None, event: Event | None, message: str) -> None:
        """Write what is wrong."""
        told = {**_head(line, event), "error": message}
        self._write(json_line(told))


def _head(line: int | None, event: Event | None) -> dict[str, object]:
    """What every line begins with; an event's id comes back with it."""
    head: dict[str, object] = {"line": line}
    if event is not None:
        head["event"] = event.kind
        if event.id is not None:
            head["id"] = event.id
    return head


class RealTime:
    """Holds events back until as much time has passed as between them and the first.

    What is answered slowly does not delay what follows: each waits for a moment of its own. Events
    older than the one before are not held back. After a reset times may begin anew.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._offset: float | None = None
        """The clock's time less the session's."""
        self._newest = 0.0
        self._may_begin_anew = False

    def __call__(self, event: Event) -> None:
        """Wait for an event's moment; InputError for one that should have a time and has none."""
        if event.at is not None:
            self._wait(event.at)
        elif isinstance(event, (Push, SetText, Tick)):
            raise InputError(
                f"a {event.kind} without `at` cannot be replayed in real time; record times in "
                "seconds, or take --replay fast"
            )
        self._may_begin_anew = self._may_begin_anew or event.begins_anew

    def _wait(self, at: float) -> None:
        if self._offset is None or (self._may_begin_anew and at < self._newest):
            self._offset, self._newest = self._clock() - at, at
        self._may_begin_anew = False
        self._newest = max(self._newest, at)
        left = self._offset + at - self._clock()
        if left > 0:
            self._sleep(left)
