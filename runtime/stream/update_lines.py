"""Updates as lines of JSON, each written as soon as it is known; docs/run.md has the schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from ifmmin.runtime.modality import Modality
from ifmmin.runtime.prediction import Prediction
from ifmmin.runtime.stream.events import Event
from ifmmin.runtime.stream.updates import Update

Write = Callable[[str], None]
"""Takes a line without its end."""
_Value = TypeVar("_Value")


class _Top(msgspec.Struct):
    label: str
    probability: float


class _Line(msgspec.Struct, kw_only=True):
    """A field that is UNSET is not written."""

    line: int | None
    event: str
    id: str | int | UnsetType
    at: float | None
    pattern: str | None
    label: str | None
    probabilities: dict[str, float] | None
    logits: list[float] | None
    top: list[_Top] | UnsetType
    frames: dict[str, int]
    absent: dict[str, str] | UnsetType
    dropped_frames: dict[str, int] | UnsetType
    late_frames: dict[str, int] | UnsetType
    backend: str | None
    seconds: float


class _Failure(msgspec.Struct, kw_only=True):
    line: int | None
    event: str | UnsetType
    id: str | int | UnsetType
    error: str


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
        shares = self._shares(said) if said else None
        line = _Line(
            line=update.line,
            event=update.event.kind,
            id=_or_unset(update.event.id),
            at=update.at,
            pattern=str(said.pattern) if said and said.pattern else None,
            label=update.label,
            probabilities=shares,
            logits=said.logits.tolist() if said else None,
            top=self._top(shares),
            frames={m.value: count for m, count in update.frames.items()},
            absent=_by_letter(update.absent),
            dropped_frames=_by_letter(update.dropped),
            late_frames=_by_letter(update.late),
            backend=said.backend if said else None,
            seconds=update.seconds,
        )
        self._write(msgspec.json.encode(line).decode())

    def fail(self, line: int | None, event: Event | None, message: str) -> None:
        """Write what is wrong."""
        told = _Failure(
            line=line,
            event=event.kind if event else UNSET,
            id=_or_unset(event.id if event else None),
            error=message,
        )
        self._write(msgspec.json.encode(told).decode())

    def _shares(self, said: Prediction) -> dict[str, float]:
        return dict(zip(self._labels, said.probabilities.tolist(), strict=True))

    def _top(self, shares: dict[str, float] | None) -> list[_Top] | UnsetType:
        if not self._top_k or shares is None:
            return UNSET
        ranked = sorted(shares.items(), key=lambda pair: -pair[1])
        return [_Top(label, share) for label, share in ranked[: self._top_k]]


def _or_unset(value: _Value | None) -> _Value | UnsetType:
    return UNSET if value is None else value


def _by_letter(found: Mapping[Modality, _Value]) -> dict[str, _Value] | UnsetType:
    return {m.value: value for m, value in found.items()} if found else UNSET
