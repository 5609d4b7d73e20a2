"""A stream as bytes, so that it outlives its process and moves to another device.

A line that says what it is, the SHA-256 of the rest, and the rest: tensors in the safetensors
format, whose header holds everything else as JSON. No pickle.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.stream.channel import Arrived, Past
from ifmmin.runtime.stream.lane import Lane
from ifmmin.runtime.stream.session import Session

MAGIC = b"ifmmin stream 1\n"
_DIGEST = hashlib.sha256().digest_size
_FIELD = "stream"

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Identity:
    """Which network's states these are; the same on every device and in every precision."""

    checkpoint: str
    """SHA-256 of the checkpoint."""
    states: dict[str, list[tuple[str, tuple[int | str, ...]]]]
    """Per modality the names and sizes of what its step graph keeps."""


class _Lane(msgspec.Struct):
    begun: int
    frames: int


class _Channel(msgspec.Struct):
    frames: int
    hop: int | None
    newest: float | None
    timed: bool | None
    past_hop: int
    dropped: bool
    why_absent: str
    dropped_frames: int
    late_frames: int
    lanes: list[_Lane]


class _Record(msgspec.Struct):
    checkpoint: str
    states: dict[str, list[tuple[str, tuple[int | str, ...]]]]
    options: dict[str, Any]
    now: float | None
    origin: float
    channels: dict[str, _Channel]
    smoother: dict[str, Any] | None


def snapshot(session: Session, identity: Identity) -> bytes:
    """The whole state of a stream of which nothing waits to be heard."""
    from safetensors.numpy import save

    tensors: Tensors = {}
    for letter, channel in session.channels.items():
        for number, lane in enumerate(channel.past.lanes):
            for name, array in _arrays(lane).items():
                tensors[f"{letter}/{number}/{name}"] = np.ascontiguousarray(array)
    record = _Record(
        identity.checkpoint,
        identity.states,
        _options(session),
        session.now,
        session.origin,
        {m.value: _channel(session, m) for m in session.channels},
        session.smoother.state() if session.smoother else None,
    )
    body = save(tensors, {_FIELD: msgspec.json.encode(record).decode()})
    return MAGIC + hashlib.sha256(body).digest() + body


def restore(session: Session, content: bytes, identity: Identity, now: float | None) -> None:
    """Put a snapshot in the place of a stream's state; an error leaves it as it is.

    now: the time here, where the stream has a clock; times then move so that none has passed.
    """
    record, tensors = _read(content)
    _require_same(record, identity, session)
    shift = now - record.now if now is not None and record.now is not None else 0.0
    try:
        made = [
            (Modality.of(letter), told, _lanes(letter, told, tensors))
            for letter, told in record.channels.items()
        ]
    except KeyError as error:
        raise _damaged(f"{error} is not in it") from error
    session.reset()
    for modality, told, lanes in made:
        _fill(session, modality, told, lanes, shift)
    session.set_origin(record.origin + shift)
    session.now = None if record.now is None else record.now + shift
    if session.smoother is not None and record.smoother is not None:
        last = record.smoother["last"]
        session.smoother.restore(record.smoother | {"last": None if last is None else last + shift})


def _read(content: bytes) -> tuple[_Record, Tensors]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise InputError(f"snapshot: got {type(content).__name__}, wanted bytes of `snapshot()`")
    content = bytes(content)
    if not content.startswith(MAGIC):
        raise InputError("these bytes are no snapshot of a stream; give those of `snapshot()`")
    start = len(MAGIC) + _DIGEST
    digest, body = content[len(MAGIC) : start], content[start:]
    if hashlib.sha256(body).digest() != digest:
        raise _damaged(f"{len(content)} bytes whose checksum is another")
    try:
        tensors: Tensors = load(body)
        size = int.from_bytes(body[:8], "little")
        header = msgspec.json.decode(body[8 : 8 + size], type=dict[str, Any])
        return msgspec.json.decode(header["__metadata__"][_FIELD], type=_Record), tensors
    except (SafetensorError, msgspec.MsgspecError, KeyError) as error:
        raise _damaged(str(error)) from error


def _require_same(record: _Record, identity: Identity, session: Session) -> None:
    if record.checkpoint != identity.checkpoint or record.states != identity.states:
        raise InputError(
            f"the snapshot is of another network (checkpoint {record.checkpoint[:12]}..., this "
            f"bundle's is {identity.checkpoint[:12]}...); resume it under a bundle of its own"
        )
    own = _options(session)
    apart = [name for name in own if record.options.get(name) != own[name]]
    if apart:
        told = ", ".join(f"{name} {record.options.get(name)}, here {own[name]}" for name in apart)
        raise InputError(
            f"the snapshot is of a stream with other options ({told}); make this one alike"
        )


def _options(session: Session) -> dict[str, Any]:
    """What has to be the same for states to mean the same."""
    options = session.rules.options
    return {
        "window": options.window,
        "half_life": options.half_life,
        "hop": options.seconds_per_hop,
        "smoothing": options.smoothing is not None,
    }


def _channel(session: Session, modality: Modality) -> _Channel:
    channel = session.channels[modality]
    arrived, past = channel.arrived, channel.past
    return _Channel(
        arrived.frames,
        arrived.hop,
        arrived.newest,
        arrived.timed,
        past.hop,
        channel.dropped,
        channel.why_absent,
        channel.dropped_frames,
        channel.late_frames,
        [_Lane(lane.begun, lane.frames) for lane in past.lanes],
    )


def _fill(
    session: Session, modality: Modality, told: _Channel, lanes: list[Lane], shift: float
) -> None:
    channel = session.channels[modality]
    newest = None if told.newest is None else told.newest + shift
    channel.arrived = Arrived(told.frames, told.hop, newest, told.timed)
    channel.past = Past(tuple(lanes), told.past_hop)
    channel.dropped = told.dropped
    channel.why_absent = told.why_absent
    channel.dropped_frames, channel.late_frames = told.dropped_frames, told.late_frames


def _arrays(lane: Lane) -> Tensors:
    found: Tensors = {}
    if lane.early is not None:
        found["early"] = lane.early
    if lane.pooled is not None:
        found["pooled"] = lane.pooled
    for number, array in enumerate(lane.kept or ()):
        found[f"state{number}"] = array
    return found


def _lanes(letter: str, told: _Channel, tensors: Tensors) -> list[Lane]:
    lanes = []
    for number, lane in enumerate(told.lanes):
        at = f"{letter}/{number}"
        states = sum(key.startswith(f"{at}/state") for key in tensors)
        kept = tuple(tensors[f"{at}/state{i}"] for i in range(states)) or None
        early = tensors.get(f"{at}/early")
        lanes.append(Lane(lane.begun, lane.frames, early, kept, tensors[f"{at}/pooled"]))
    return lanes


def _damaged(why: str) -> InputError:
    return InputError(f"the snapshot is damaged ({why}); it cannot be resumed")
