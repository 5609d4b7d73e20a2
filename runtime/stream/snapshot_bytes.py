"""The bytes of a snapshot: a record and tensors, with a checksum and without pickle.

A line that says what it is and in which format, the SHA-256 of the rest, and the rest: tensors in
the safetensors format, whose header holds the record as JSON.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.stream.numeric import shown

FORMAT = 2
_FIRST_LINE = re.compile(rb"ifmmin stream (\d{1,9})\n")
_DIGEST = hashlib.sha256().digest_size
_FIELD = "stream"

Tensors = dict[str, NDArray[np.float32]]
States = list[tuple[str, tuple[int | str, ...]]]
"""Names and sizes of what a step graph keeps."""


class LaneRecord(msgspec.Struct):
    """A lane apart from its tensors."""

    begun: int
    frames: int


class ChannelRecord(msgspec.Struct):
    """A modality apart from its tensors."""

    frames: int
    hop: int | None
    newest: float | None
    timed: bool | None
    dropped: bool
    why_absent: str
    dropped_frames: int
    late_frames: int
    lanes: list[LaneRecord]


class Record(msgspec.Struct):
    """All of a stream but its tensors."""

    checkpoint: str
    states: dict[str, States]
    """Of the modalities that were heard."""
    options: dict[str, Any]
    now: float | None
    origin: float
    channels: dict[str, ChannelRecord]
    smoother: dict[str, Any] | None


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
    except (SafetensorError, msgspec.MsgspecError, KeyError) as error:
        raise damaged(str(error)) from error


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
