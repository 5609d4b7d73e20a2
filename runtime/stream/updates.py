"""From events to answers: what became of each, for whoever shows or sends it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.prediction import Prediction
from ifmmin.runtime.stream.events import Event
from ifmmin.runtime.stream.stream import Stream


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


class Screen(Protocol):
    """Somewhere that updates are shown."""

    def show(self, update: Update) -> None:
        """Show an answer."""
        ...

    def fail(self, line: int | None, event: Event | None, message: str) -> None:
        """Show why an event has none; it is None where the line is no event."""
        ...


class Listener:
    """Lets events happen to a stream, and answers after each.

    labels: of the bundle. threshold: probability below which no class is named.
    """

    def __init__(self, stream: Stream, labels: Sequence[str], threshold: float) -> None:
        self._stream = stream
        self._labels = list(labels)
        self._threshold = threshold

    def hear(self, line: int | None, event: Event) -> Update:
        """The answer after an event; raises IfmminError where it cannot happen or be answered."""
        session = self._stream.session
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
        at = self._stream.session.moment(at)
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
