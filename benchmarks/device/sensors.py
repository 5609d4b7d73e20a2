"""Sensors of energy and power: RAPL of x86, INA3221 and tegrastats of a Jetson."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ifmmin.runtime.doctor.collect import integer

from .gpu import Nvml
from .machine import Machine, PowerSource, ProbeUnavailable, Readings

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
    sensors: list[tuple[str, Callable[[Machine], Rapl | Ina]]] = [("rapl", Rapl), ("ina", Ina)]
    for name, make in sensors:
        try:
            sensor = make(machine)
        except ProbeUnavailable as reason:
            reasons.append(str(reason))
        else:
            sources.append(PowerSource(name=name, rails=sensor.rails, counts=sensor.counts))
    if jetson and not any(source.name == "ina" for source in sources) and machine.find(_TOOL):
        sources.append(PowerSource(name="tegrastats", rails=(), counts=False))
    if gpus is not None:
        found = gpus.read()
        rails = tuple(dict.fromkeys((*found.joules, *found.watts)))
        if rails:
            counts = found.joules.keys() >= set(rails)
            sources.append(PowerSource(name="nvidia", rails=rails, counts=counts))
        else:
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
            raise ProbeUnavailable(_no_rapl(refused))

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


def _no_rapl(refused: int) -> str:
    if refused:
        return (
            f"processor energy (RAPL): {refused} counters are there and this user may not read "
            "them; since Linux 5.10 they are root's, `chmod a+r` on energy_uj opens them"
        )
    return "processor energy (RAPL): the kernel shows no counters, as in virtual machines"


@dataclass(frozen=True)
class Rail:
    """One channel; either power in microwatts, or millivolts and milliamperes."""

    name: str
    folder: str
    channel: int
    power: bool

    def watts(self, machine: Machine) -> float | None:
        """Power at this moment; None where a file of it cannot be read."""
        if self.power:
            micro = integer(machine.text(f"{self.folder}/power{self.channel}_input"))
            return None if micro is None else micro * 1e-6
        volts = integer(machine.text(f"{self.folder}/in{self.channel}_input"))
        amperes = integer(machine.text(f"{self.folder}/curr{self.channel}_input"))
        return None if volts is None or amperes is None else volts * amperes * 1e-6


class Ina:
    """Rails `ina/VDD_IN` and so on. Raises ProbeUnavailable."""

    counts = False

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        found = [rail for path in machine.find(_HWMON) for rail in _rails_of(machine, path)]
        self._rails = [rail for rail in found if rail.watts(machine) is not None]
        if not self._rails:
            there = f"{len(found)} rails are there, none can be read" if found else "there are none"
            raise ProbeUnavailable(f"power sensors of the board (INA3221): {there}")

    @property
    def rails(self) -> tuple[str, ...]:
        """Names of the rails that can be read."""
        return tuple(f"ina/{rail.name}" for rail in self._rails)

    def read(self) -> Readings:
        """Watts at this moment."""
        watts = {f"ina/{rail.name}": rail.watts(self._machine) for rail in self._rails}
        return Readings(watts={name: value for name, value in watts.items() if value is not None})

    def close(self) -> None:
        """Nothing is held."""


def _rails_of(machine: Machine, name_path: str) -> list[Rail]:
    folder = name_path.removesuffix("/name")
    chip = machine.text(name_path).strip()
    if chip == "ina238":
        # One channel, of the power input of AGX Thor's carrier; the kernel has no label for it.
        label = machine.text(f"{folder}/label").strip() or _SYSTEM_INPUT
        return [Rail(name=label, folder=folder, channel=1, power=True)]
    if chip != "ina3221":
        return []
    rails = []
    for path in machine.find(f"{folder}/in[1-3]_label"):
        # Channels 4 to 7 are voltages of the shunts and their sum: no rails.
        label, channel = machine.text(path).strip(), re.search(r"/in(\d)_label$", path)
        if channel and label and label != _NOT_CONNECTED:
            rails.append(Rail(label, folder, int(channel.group(1)), power=False))
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


class Tegrastats:
    """Follows the tool. Raises ProbeUnavailable where there is none or it tells no power."""

    counts = False

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

    @property
    def rails(self) -> tuple[str, ...]:
        """Names of the rails in the newest line."""
        return tuple(self.read().watts)

    def read(self) -> Readings:
        """The newest line; nothing, once the tool hangs or is gone."""
        return parse_line(self._followed.newest(_OLDEST))

    def close(self) -> None:
        """End the tool."""
        self._followed.close()
