"""One look at a running machine, as the sampler writes it down; and the lines of its file."""

from __future__ import annotations

import msgspec


class Opening(msgspec.Struct, frozen=True, kw_only=True, tag="opening"):
    """The first line: what this machine does not tell."""

    missing: tuple[str, ...]
    """Sensors that are not available, each with the reason."""


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="sample"):
    """Values by name at one moment; see `ifmmin.benchmarks.device.readings.Readings`."""

    at: float
    """Seconds of `time.monotonic`, which all processes of a machine share."""
    joules: dict[str, float] = {}
    watts: dict[str, float] = {}
    celsius: dict[str, float] = {}
    mhz: dict[str, int] = {}
    counts: dict[str, int] = {}
    limits: tuple[str, ...] = ()
    busy: float | None = None
    """Seconds of CPU since boot that were not idle, all CPUs together."""
    stolen: float | None = None
    """Seconds of CPU since boot that the hypervisor gave to others."""
    idle: float | None = None


_DECODER = msgspec.json.Decoder(Opening | Sample)


def write_line(line: Opening | Sample) -> bytes:
    """A line of the file."""
    return msgspec.json.encode(line) + b"\n"


def read_lines(content: bytes) -> tuple[list[Opening | Sample], int]:
    """The whole lines of a part of the file, and how many bytes they are.

    The last line may still be in the writing.
    """
    end = content.rfind(b"\n") + 1
    return [_DECODER.decode(line) for line in content[:end].splitlines()], end
