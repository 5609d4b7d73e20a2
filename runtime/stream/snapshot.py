"""Snapshot of a stream: bytes that outlive its process and move to another device.

A line that says what it is and in which format, the SHA-256 of the rest, and the rest: tensors in
the safetensors format, whose header holds the record as JSON.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, one_line
from ..files import JSON_ERRORS
from ..modality import Modality
from .options import Count, SmootherState, resolve_time, shown
from .state import ModalityState, Progress, StreamState
from .window import EncoderState

FORMAT = 2
_FIRST_LINE = re.compile(rb"ifmmin stream (\d{1,9})\n")
_DIGEST = hashlib.sha256().digest_size
_FIELD = "stream"

Tensors = dict[str, NDArray[np.float32]]
States = list[tuple[str, tuple[int | str, ...]]]
"""Names and sizes of what a step graph keeps."""


class EncoderRecord(msgspec.Struct):
    """An encoder state apart from its tensors."""

    begun: int
    frames: Count


class ModalityRecord(msgspec.Struct):
    """A modality apart from its tensors."""

    frames: Count
    hop: int | None
    newest: float | None
    timed: bool | None
    dropped: bool
    why_absent: str
    dropped_frames: Count
    late_frames: Count
    encoders: list[EncoderRecord]


class Record(msgspec.Struct):
    """All of a stream but its tensors."""

    checkpoint: str
    states: dict[str, States]
    """Of the modalities that were heard."""
    options: dict[str, Any]
    now: float | None
    origin: float
    channels: dict[str, ModalityRecord]
    smoother: SmootherState | None


def pack(record: Record, tensors: Tensors) -> bytes:
    """A record with its tensors as bytes."""
    from safetensors.numpy import save

    body = save(tensors, {_FIELD: msgspec.json.encode(record).decode()})
    return b"ifmmin stream %d\n" % FORMAT + hashlib.sha256(body).digest() + body


def unpack(content: object) -> tuple[Record, Tensors]:
    """What `pack` was given; InputError where bytes are none of its, of a newer one, or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    body = _body(content)
    try:
        tensors: Tensors = load(body)
        size = int.from_bytes(body[:8], "little")
        header = msgspec.json.decode(body[8 : 8 + size], type=dict[str, Any])
        return msgspec.json.decode(header["__metadata__"][_FIELD], type=Record), tensors
    # TypeError: an element type that numpy lacks.
    except (SafetensorError, *JSON_ERRORS, KeyError, TypeError) as error:
        raise damaged(one_line(error)) from error


def damaged(why: str) -> InputError:
    """The error for a snapshot that does not hold together."""
    return InputError(f"the snapshot is damaged ({why}); it cannot be resumed")


def _body(content: object) -> bytes:
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise InputError(f"snapshot: got {shown(content)}, wanted bytes of `snapshot()`")
    content = bytes(content)
    begins = _FIRST_LINE.match(content)
    if begins is None or int(begins[1]) < 1:
        raise InputError("these bytes are no snapshot of a stream; give those of `snapshot()`")
    number = int(begins[1])
    if number > FORMAT:
        raise InputError(
            f"the snapshot has format {number}, this version of ifmmin reads {FORMAT}; "
            "update ifmmin here"
        )
    if number < FORMAT:
        raise InputError(
            f"the snapshot has format {number} of an earlier version, this version of ifmmin reads "
            f"{FORMAT}; resume it with the version that wrote it"
        )
    start = begins.end() + _DIGEST
    digest, body = content[begins.end() : start], content[start:]
    if hashlib.sha256(body).digest() != digest:
        raise damaged(f"{len(content)} bytes whose checksum is another")
    return body


@dataclass(frozen=True)
class Identity:
    """Which network's states these are; the same on every device and in every precision."""

    checkpoint: str
    """SHA-256 of the checkpoint."""
    states: Mapping[str, States]
    """Per modality of the bundle what its step graph keeps."""


def snapshot(state: StreamState, identity: Identity) -> bytes:
    """The whole state of a stream of which nothing waits to be heard."""
    tensors: Tensors = {}
    for letter, channel in state.channels.items():
        for number, encoder in enumerate(channel.encoders):
            for name, array in _arrays(encoder).items():
                tensors[f"{letter}/{number}/{name}"] = np.ascontiguousarray(array)
    heard = [m.value for m, channel in state.channels.items() if channel.encoders]
    record = Record(
        identity.checkpoint,
        {letter: identity.states[letter] for letter in heard},
        _options(state),
        state.now,
        state.origin,
        {m.value: _told(channel) for m, channel in state.channels.items()},
        state.smoother.state() if state.smoother else None,
    )
    return pack(record, tensors)


def restore(
    state: StreamState, content: bytes, identity: Identity, classes: int, now: float | None
) -> None:
    """Put a snapshot in the place of a stream's state; an error leaves it as it is.

    classes: how many the network tells apart. now: the time here, where the stream has a clock;
    times then move so that none has passed. Raises InputError for other bytes, another network,
    modalities that the bundle lacks, other options, and anything inside that no stream can be in.
    Modalities that were never heard need not be in the bundle.
    """
    record, tensors = unpack(content)
    _require_same_network(record, identity)
    _require_same_options(record, state)
    shift = now - record.now if now is not None and record.now is not None else 0.0
    try:
        made = [
            (channel, told, _encoders(channel, told, tensors))
            for letter, told in record.channels.items()
            if (channel := state.channels.get(Modality.of(letter))) is not None
        ]
        _require_whole(record, state, classes)
    except KeyError as error:
        raise damaged(f"{error} is not in it") from error
    except (ValueError, InputError) as error:
        raise damaged(str(error)) from error
    state.reset()
    for channel, told, encoders in made:
        _fill(channel, told, encoders, shift)
    state.set_origin(record.origin + shift)
    state.now = None if record.now is None else record.now + shift
    if state.smoother is not None and record.smoother is not None:
        state.smoother.restore(record.smoother, shift)


def _require_whole(record: Record, state: StreamState, classes: int) -> None:
    """ValueError or InputError unless everything in a record can be of such a stream."""
    heard = {letter for letter, told in record.channels.items() if told.encoders}
    if heard != record.states.keys():
        raise ValueError(f"states of {', '.join(record.states) or 'none'} for others")
    if (record.smoother is None) != (state.smoother is None):
        raise ValueError("no smoothing, or smoothing that was not asked for")
    times = [record.now, record.origin, *(told.newest for told in record.channels.values())]
    if record.smoother is not None:
        record.smoother.require(classes)
        times.append(record.smoother.last)
    for time in times:
        if time is not None:
            resolve_time(state.rules.options, time)


def _require_same_network(record: Record, identity: Identity) -> None:
    if record.checkpoint != identity.checkpoint:
        raise InputError(
            f"the snapshot is of another network (checkpoint {record.checkpoint[:12]}..., this "
            f"bundle's is {identity.checkpoint[:12]}...); resume it under a bundle of its own"
        )
    lacking = sorted(record.states.keys() - identity.states.keys())
    if lacking:
        raise InputError(
            f"the snapshot has heard modality {' and '.join(lacking)}, of which this bundle has no "
            f"graphs for streams (it has {', '.join(identity.states)}); resume it under a bundle "
            "that has, or export them with ifmmin-export ... --pattern"
        )
    for letter, states in record.states.items():
        if states != identity.states[letter]:
            raise InputError(
                f"the snapshot of modality {letter} has states {_spelt(states)}, this bundle's "
                f"{_spelt(identity.states[letter])}; resume it under a bundle of the same export"
            )


def _require_same_options(record: Record, state: StreamState) -> None:
    own = _options(state)
    apart = [name for name in own if record.options.get(name) != own[name]]
    if apart:
        told = ", ".join(f"{name} {record.options.get(name)}, here {own[name]}" for name in apart)
        raise InputError(
            f"the snapshot is of a stream with other options ({told}); make this one alike"
        )


def _options(state: StreamState) -> dict[str, Any]:
    """What has to be the same for states to mean the same."""
    options = state.rules.options
    return {
        "window": options.window,
        "hop": options.seconds_per_hop,
        "smoothing": options.smoothing is not None,
    }


def _spelt(states: Iterable[tuple[str, tuple[int | str, ...]]]) -> str:
    return ", ".join(f"{name} ({' x '.join(map(str, shape))})" for name, shape in states)


def _told(channel: ModalityState) -> ModalityRecord:
    progress = channel.progress
    return ModalityRecord(
        progress.frames,
        progress.hop,
        progress.newest,
        progress.timed,
        channel.dropped,
        channel.why_absent,
        channel.dropped_frames,
        channel.late_frames,
        [EncoderRecord(encoder.begun, encoder.frames) for encoder in channel.encoders],
    )


def _fill(
    channel: ModalityState, told: ModalityRecord, encoders: list[EncoderState], shift: float
) -> None:
    newest = None if told.newest is None else told.newest + shift
    channel.progress = Progress(told.frames, told.hop, newest, told.timed)
    channel.encoders = tuple(encoders)
    channel.dropped = told.dropped
    channel.why_absent = told.why_absent
    channel.dropped_frames, channel.late_frames = told.dropped_frames, told.late_frames


def _arrays(encoder: EncoderState) -> Tensors:
    found: Tensors = {}
    if encoder.early is not None:
        found["early"] = encoder.early
    if encoder.pooled is not None:
        found["pooled"] = encoder.pooled
    for number, array in enumerate(encoder.kept or ()):
        found[f"state{number}"] = array
    return found


def _encoders(channel: ModalityState, told: ModalityRecord, tensors: Tensors) -> list[EncoderState]:
    letter, encoders = channel.modality.value, list[EncoderState]()
    for number, encoder in enumerate(told.encoders):
        at = f"{letter}/{number}"
        states = sum(key.startswith(f"{at}/state") for key in tensors)
        kept = tuple(tensors[f"{at}/state{i}"] for i in range(states)) or None
        early = tensors.get(f"{at}/early")
        encoders.append(
            EncoderState(encoder.begun, encoder.frames, early, kept, tensors[f"{at}/pooled"])
        )
        channel.step_runner.require(encoders[-1])
    if any(one.begun >= other.begun for one, other in pairwise(encoders)):
        raise ValueError("encoders out of order")
    return encoders
