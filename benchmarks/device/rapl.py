"""Energy of x86 processors: counters that the kernel shows as powercap zones (RAPL)."""

from __future__ import annotations

from ifmmin.benchmarks.device.machine import Machine
from ifmmin.benchmarks.device.readings import ProbeUnavailable, Readings
from ifmmin.runtime.doctor.versions import integer

# Not `intel-rapl-mmio:*`: the same packages by another door. AMD's zones have Intel's name too.
_ZONES = "/sys/class/powercap/intel-rapl:*/energy_uj"
_MICRO = 1e-6


class Counter:
    """Adds up a counter that starts anew at its end."""

    def __init__(self, span: int) -> None:
        self._span = span
        self._last: int | None = None
        self._total = 0
        self._broken = False

    def advance(self, now: int) -> int | None:
        """Counts since the first call; None for ever once it went back without being at its end."""
        if self._last is not None:
            step = now - self._last
            # Read every second, a counter that really starts anew falls by nearly all of its span.
            self._broken |= -self._span / 2 <= step < 0
            self._total += step % self._span
        self._last = now
        return None if self._broken else self._total


class Rapl:
    """Rails `rapl/package-0`, `rapl/package-0/dram` and so on. Raises ProbeUnavailable."""

    counts = True

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._zones: dict[str, tuple[str, Counter]] = {}
        refused = 0
        for path in machine.find(_ZONES):
            span = integer(machine.text(path.replace("energy_uj", "max_energy_range_uj")))
            if integer(machine.text(path)) is None:
                refused += 1
            elif span:
                self._zones[self._rail(path)] = (path, Counter(span))
        if not self._zones:
            raise ProbeUnavailable(_reason(refused))

    @property
    def rails(self) -> tuple[str, ...]:
        """Names of the zones that can be read."""
        return tuple(self._zones)

    def read(self) -> Readings:
        """Joules since the first look."""
        found = Readings()
        for rail, (path, counter) in self._zones.items():
            micro = integer(self._machine.text(path))
            joules = None if micro is None else counter.advance(micro)
            if joules is not None:
                found.joules[rail] = joules * _MICRO
        return found

    def close(self) -> None:
        """Nothing is held."""

    def _rail(self, path: str) -> str:
        zone = path.removesuffix("/energy_uj")
        names = []
        # `intel-rapl:0:1` lies within `intel-rapl:0`.
        while ":" in zone:
            names.append(self._machine.text(f"{zone}/name").strip() or zone.rpartition(":")[2])
            zone = zone.rpartition(":")[0]
        return "/".join(["rapl", *reversed(names)])


def _reason(refused: int) -> str:
    if refused:
        return (
            f"processor energy (RAPL): {refused} counters are there and this user may not read "
            "them; since Linux 5.10 they are root's, `chmod a+r` on energy_uj opens them"
        )
    return "processor energy (RAPL): the kernel shows no counters, as in virtual machines"
