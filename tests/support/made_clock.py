"""A clock that goes on where it is told to: no other work of the machine moves it."""

from __future__ import annotations


class MadeClock:
    """In the place of the module `time`, for what asks it how late it is."""

    now = 1000.0
    """Seconds."""

    def monotonic(self) -> float:
        """As of `time`."""
        return self.now

    def perf_counter(self) -> float:
        """As of `time`."""
        return self.now
