"""Recorded sessions at the speed at which they happened, or as fast as they can be answered."""

from __future__ import annotations

import time
from collections.abc import Callable

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.stream.events import Event, Push, SetText, Tick

SPEEDS = ("real", "fast")


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


def at_once(event: Event) -> None:
    """Hold nothing back."""


def pace(speed: str) -> Callable[[Event], None]:
    """What to call before each event, for one of SPEEDS."""
    return RealTime() if speed == "real" else at_once
