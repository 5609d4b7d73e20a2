"""Lines of a Jetson's tegrastats: where a container hides the sensors, the tool may still tell."""

from __future__ import annotations

import re

from ifmmin.benchmarks.device.machine import Machine
from ifmmin.benchmarks.device.readings import ProbeUnavailable, Readings

TOOL = "/usr/bin/tegrastats"
_FIRST_LINE = 2.0
"""Seconds that the tool gets for it."""
_OLDEST = 5.0
_COLDEST = -50.0
"""A sensor that is switched off reads -256 degrees."""
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (-?\d{1,9})mW\b")
_ZONE = re.compile(r"\b(\w+)@(-?\d{1,4}(?:\.\d{1,6})?)C\b")
_GPU = re.compile(r"\bGR3D_FREQ (?:\d{1,3}%)?@?\[?(\d{1,5}(?:,\d{1,5})*)?\]?")


def parse_line(line: str) -> Readings:
    """Rails, temperatures and the GPU's clock; lines of JetPack 5, 6 and 7 all fit.

    A rail reads `now/average` or, in JetPack 7, `now/average/highest`: the first is taken. The
    clock is absent without root, or stands in brackets, one for each part of the GPU.
    """
    rails = {name: int(power) / 1000 for name, power in _RAIL.findall(line) if name != "NC"}
    zones = {zone: float(celsius) for zone, celsius in _ZONE.findall(line)}
    gpu = _GPU.search(line)
    clocks = [int(clock) for clock in gpu.group(1).split(",")] if gpu and gpu.group(1) else []
    return Readings(
        watts={f"tegrastats/{name}": watts for name, watts in rails.items()},
        celsius={zone: celsius for zone, celsius in zones.items() if celsius > _COLDEST},
        mhz={"GR3D": max(clocks)} if clocks else {},
    )


class Tegrastats:
    """Follows the tool. Raises ProbeUnavailable where there is none or it tells no power."""

    counts = False

    def __init__(self, machine: Machine, period: float) -> None:
        if not machine.find(TOOL):
            raise ProbeUnavailable(f"tegrastats: there is no {TOOL}")
        followed = machine.follow(TOOL, "--interval", str(max(1, round(period * 1000))))
        if followed is None or not followed.wait(_FIRST_LINE):
            if followed is not None:
                followed.close()
            raise ProbeUnavailable("tegrastats: it is there and prints nothing")
        self._followed = followed
        if not self.rails:
            self.close()
            raise ProbeUnavailable("tegrastats: it prints no power")

    @property
    def rails(self) -> tuple[str, ...]:
        """Names of the rails in the newest line."""
        return tuple(self.read().watts)

    def read(self) -> Readings:
        """The newest line."""
        lines = self._followed.recent(_OLDEST)
        return parse_line(lines[-1]) if lines else Readings()

    def close(self) -> None:
        """End the tool."""
        self._followed.close()
