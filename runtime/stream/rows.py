"""Frames of many streams in one array, a row each: what of every row counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.frames import as_float32, is_finite
from ifmmin.runtime.stream.channel import Channel
from ifmmin.runtime.stream.faults import of_stream
from ifmmin.runtime.stream.session import Rules
from ifmmin.runtime.validate import Usable, usable_frames


def usable_rows(channel: Channel, value: Any, numbers: Sequence[int], rules: Rules) -> list[Usable]:
    """Of a caller's (S, N, D) the frames of each row that count, copied.

    numbers: the streams to which the rows belong. Raises InputError as a push of a row would, and
    names the stream.
    """
    modality = channel.modality
    array = as_float32(modality, value, "(streams, frames, D), as many frames for each")
    spec = rules.specs[modality]
    if array.ndim != 3 or array.shape[::2] != (len(numbers), spec.dim):
        raise InputError(
            f"modality {modality} ({modality.word}): got shape {array.shape}, wanted "
            f"({len(numbers)} streams, frames, {spec.dim}): {spec.features}"
        )
    # Each copied: one that waits longer must not hold the others'.
    rows, length = [row.copy() for row in array], array.shape[1]
    if length and is_finite(array):
        return [Usable(row, None, length) for row in rows]
    found = []
    for number, row in zip(numbers, rows, strict=True):
        try:
            found.append(usable_frames(modality, row, rules.specs, rules.policy))
        except InputError as error:
            raise of_stream(number, error) from error
    return found
