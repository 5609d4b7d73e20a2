"""Sensors of energy and power: RAPL of x86, INA3221 and tegrastats of a Jetson."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from ifmmin.runtime.doctor.collect import integer

from .gpu import Nvml
from .machine import Machine, PowerSource, Probe, ProbeUnavailable, Readings

# Not `intel-rapl-mmio:*`: the same packages by another door. AMD's zones have Intel's name too.
_ZONES = "/sys/class/powercap/intel-rapl:*/energy_uj"
_MICRO = 1e-6
_HWMON = "/sys/class/hwmon/hwmon*/name"
_NOT_CONNECTED = "NC"
_SYSTEM_INPUT = "VIN"
_TOOL = "/usr/bin/tegrastats"
_FIRST_LINE = 2.0
"""Seconds that the tool gets for it."""
_OLDEST = 5.0
_COLDEST = -50.0
"""A sensor that is switched off reads -256 degrees."""
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (-?\d{1,9})mW\b")
_ZONE = re.compile(r"\b(\w+)@(-?\d{1,4}(?:\.\d{1,6})?)C\b")
_GR3D = re.compile(r"\bGR3D_FREQ (?:\d{1,3}%)?@?\[?(\d{1,5}(?:,\d{1,5})*)?\]?")


def find_power(
    machine: Machine, gpus: Nvml | None, jetson: bool
) -> tuple[tuple[PowerSource, ...], tuple[str, ...]]:
    """Sources, and reasons. Starts no tool, so what tegrastats would tell is not known yet."""
    sources, reasons = [], []
    probes: dict[str, Callable[[], Probe | None]] = {
        "rapl": lambda: Rapl(machine), "ina": lambda: Ina(machine), "nvidia": lambda: gpus
    }  # fmt: skip
    for name, make in probes.items():
        try:
            probe = make()
        except ProbeUnavailable as reason:
            reasons.append(str(reason))
            if name == "ina" and jetson and machine.find(_TOOL):
                sources.append(PowerSource(name="tegrastats", rails=(), counts=False))
            continue
        if probe is not None and (rails := probe.rails):
            counts = probe.read().joules.keys() >= set(rails)
            sources.append(PowerSource(name=name, rails=rails, counts=counts))
        elif probe is not None:
            reasons.append("GPU: it tells no power")
    return tuple(sources), tuple(reasons)


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


class Rapl(Probe):
    """Rails `rapl/package-0`, `rapl/package-0/dram` and so on. Raises ProbeUnavailable."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._zones: dict[str, tuple[str, Counter]] = {}
        why = "the kernel shows no counters, as in virtual machines"
        refused = 0
        for path in machine.find(_ZONES):
            span = integer(machine.text(path.replace("energy_uj", "max_energy_range_uj")))
            if integer(machine.text(path)) is None:
                refused += 1
            elif span:
                self._zones[self._rail(path)] = (path, Counter(span))
        if not self._zones:
            if refused:
                why = (
                    f"{refused} counters are there and this user may not read them; since Linux "
                    "5.10 they are root's, `chmod a+r` on energy_uj opens them"
                )
            raise ProbeUnavailable(f"processor energy (RAPL): {why}")

    def read(self) -> Readings:
        """Joules since the first look."""
        found = Readings()
        for rail, (path, counter) in self._zones.items():
            micro = integer(self._machine.text(path))
            joules = None if micro is None else counter.advance(micro)
            if joules is not None:
                found.joules[rail] = joules * _MICRO
        return found

    def _rail(self, path: str) -> str:
        zone = path.removesuffix("/energy_uj")
        names = []
        # `intel-rapl:0:1` lies within `intel-rapl:0`.
        while ":" in zone:
            names.append(self._machine.text(f"{zone}/name").strip() or zone.rpartition(":")[2])
            zone = zone.rpartition(":")[0]
        return "/".join(["rapl", *reversed(names)])


class Ina(Probe):
    """Rails `ina/VDD_IN` and so on. Raises ProbeUnavailable."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._files: dict[str, Sequence[str]] = {}
        """By rail: microwatts, or millivolts and milliamperes."""
        for path in machine.find(_HWMON):
            self._files.update(_rails_of(machine, path))
        there = len(self._files)
        if not self.read().watts:
            found = f"{there} rails are there, none can be read" if there else "there are none"
            raise ProbeUnavailable(f"power sensors of the board (INA3221): {found}")

    def read(self) -> Readings:
        """Watts at this moment."""
        watts = {}
        for rail, files in self._files.items():
            values = [integer(self._machine.text(path)) for path in files]
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                watts[rail] = math.prod(known) * _MICRO
        return Readings(watts=watts)


def _rails_of(machine: Machine, name_path: str) -> dict[str, Sequence[str]]:
    folder = name_path.removesuffix("/name")
    chip = machine.text(name_path).strip()
    if chip == "ina238":
        # One channel, of the power input of AGX Thor's carrier; the kernel has no label for it.
        label = machine.text(f"{folder}/label").strip() or _SYSTEM_INPUT
        return {f"ina/{label}": [f"{folder}/power1_input"]}
    rails: dict[str, Sequence[str]] = {}
    # Channels 4 to 7 are voltages of the shunts and their sum: no rails.
    for path in machine.find(f"{folder}/in[1-3]_label") if chip == "ina3221" else ():
        label, channel = machine.text(path).strip(), path[-len("1_label")]
        if label and label != _NOT_CONNECTED:
            rails[f"ina/{label}"] = [f"{folder}/{kind}{channel}_input" for kind in ("in", "curr")]
    return rails


def parse_line(line: str) -> Readings:
    """Rails, temperatures and the GPU's clock; lines of JetPack 5, 6 and 7 all fit.

    A rail reads `now/average` or, in JetPack 7, `now/average/highest`: the first is taken. The
    clock is absent without root, or stands in brackets, one for each part of the GPU.
    """
    rails = {name: int(power) / 1000 for name, power in _RAIL.findall(line) if name != "NC"}
    zones = {zone: float(celsius) for zone, celsius in _ZONE.findall(line)}
    gpu = _GR3D.search(line)
    clocks = [int(clock) for clock in gpu.group(1).split(",")] if gpu and gpu.group(1) else []
    return Readings(
        watts={f"tegrastats/{name}": watts for name, watts in rails.items()},
        celsius={zone: celsius for zone, celsius in zones.items() if celsius > _COLDEST},
        mhz={"GR3D": max(clocks)} if clocks else {},
    )


class Tegrastats(Probe):
    """Follows the tool. Raises ProbeUnavailable where there is none or it tells no power."""

    def __init__(self, machine: Machine, period: float) -> None:
        if not machine.find(_TOOL):
            raise ProbeUnavailable(f"tegrastats: there is no {_TOOL}")
        followed = machine.follow(_TOOL, "--interval", str(max(1, round(period * 1000))))
        if followed is None or not followed.wait(_FIRST_LINE):
            if followed is not None:
                followed.close()
            raise ProbeUnavailable("tegrastats: it is there and prints nothing")
        self._followed = followed
        if not self.rails:
            self.close()
            raise ProbeUnavailable("tegrastats: it prints no power")

    def read(self) -> Readings:
        """The newest line; nothing, once the tool hangs or is gone."""
        return parse_line(self._followed.newest(_OLDEST))

    def close(self) -> None:
        """End the tool."""
        self._followed.close()
