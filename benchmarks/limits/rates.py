"""What the processor does at most: multiply-adds and bytes read per second."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ifmmin.benchmarks.device.machine import Cache

MEMORY = "memory"
"""The level beyond the last cache."""
DISTURBED = 0.95
"""A rate whose round had less of the processors than this may be far too low."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a working set is read that is read again and again."""

    size: int
    """Bytes, of all threads together; each thread reads its own share."""
    rate: float
    """Bytes per second, of all threads together."""
    busy: float
    """Share of the time that the threads had processors to run on; the rest went to other work."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """The best that a number of threads did together, each rate measured alone."""

    threads: int
    float32: float
    """Multiply-adds per second; one counts once, not as two operations."""
    int8: float | None
    """Multiply-adds of 8-bit values per second; None where they were not timed."""
    int8_kernel: str
    """The instructions behind `int8`, or why it is None."""
    busy: float
    """As of a reading, for the multiply-adds."""
    read: tuple[Reading, ...]
    """By growing size, from the first cache to far beyond the last; the rate never rises."""
    probe: str
    """What measured it."""

    def reading(self, size: int) -> Reading:
        """The largest working set measured that is no larger than `size`, else the smallest."""
        fits = [reading for reading in self.read if reading.size <= size]
        return fits[-1] if fits else self.read[0]

    def bandwidth(self, size: int) -> float:
        """Bytes per second at which a working set of `size` bytes can be read at best."""
        return self.reading(size).rate

    def by_level(self, caches: Sequence[Cache]) -> dict[str, float]:
        """Bytes per second by level, each at half of what the threads have of it: `L2`, `memory`.

        caches: of the device's record. Caches of instructions hold no weights and are left out.
        """
        levels = {
            cache.name: self.bandwidth(cache.size * min(cache.instances, self.threads) // 2)
            for cache in caches
            if not cache.name.endswith("i")
        }
        return {**levels, MEMORY: self.read[-1].rate}


def ceiling(rates: Sequence[Rates]) -> Rates:
    """The last of some rates, none of them below those of fewer threads.

    rates: of the same probe and sizes with a growing number of threads. What is work for several
    threads can be done by one, and what fits a small cache is not read more slowly for being
    smaller: where that was measured, something else ran on the machine.
    """
    *fewer, last = (msgspec.structs.replace(found, read=_falling(found.read)) for found in rates)
    int8 = [found.int8 for found in rates if found.int8 is not None]
    read = [
        (reading, max([reading.rate, *(found.bandwidth(reading.size) for found in fewer)]))
        for reading in last.read
    ]
    return msgspec.structs.replace(
        last,
        float32=max(found.float32 for found in rates),
        int8=max(int8, default=None),
        read=tuple(msgspec.structs.replace(reading, rate=rate) for reading, rate in read),
    )


def _falling(read: Sequence[Reading]) -> tuple[Reading, ...]:
    """By growing size, every rate at least that of all larger working sets."""
    found: list[Reading] = []
    for reading in sorted(read, key=lambda reading: reading.size, reverse=True):
        if found and found[-1].rate > reading.rate:
            reading = msgspec.structs.replace(found[-1], size=reading.size)
        found.append(reading)
    return tuple(reversed(found))
