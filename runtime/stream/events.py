"""What happens in a session, a line of JSON each; docs/run.md has the schema."""

from __future__ import annotations

import msgspec

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.json_lines import Frames, Quality, decode_line, frames_by_letter
from ifmmin.runtime.stream.stream import Stream


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
        if self.at is None and stream.session.rules.options.clock is None:
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
