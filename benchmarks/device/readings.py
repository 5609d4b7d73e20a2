"""What one look at a running machine gives, and who looks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass
class Readings:
    """Values by name. What cannot be read is not in it."""

    joules: dict[str, float] = field(default_factory=dict)
    """Energy since the probe began, by rail: from sensors that count it."""
    watts: dict[str, float] = field(default_factory=dict)
    """Power at this moment, by rail."""
    celsius: dict[str, float] = field(default_factory=dict)
    mhz: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """Events since boot that each held the machine back."""
    limits: set[str] = field(default_factory=set)
    """What holds the machine back at this moment."""

    def update(self, other: Readings) -> None:
        """Take the values of another probe in."""
        self.joules.update(other.joules)
        self.watts.update(other.watts)
        self.celsius.update(other.celsius)
        self.mhz.update(other.mhz)
        self.counts.update(other.counts)
        self.limits |= other.limits


class Probe(Protocol):
    """Something that can be looked at again and again."""

    def read(self) -> Readings:
        """Look once. Never raises for what is not there."""
        ...

    def close(self) -> None:
        """Let go of tools and libraries."""
        ...


class ProbeUnavailable(Exception):  # noqa: N818 - not an error: most machines lack most sensors
    """A sensor that cannot be read here; the message is the reason, for the report."""
