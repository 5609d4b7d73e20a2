"""Power of a Jetson's rails: sensors on its board (INA3221, INA238) by the kernel's hwmon."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ifmmin.benchmarks.device.machine import Machine
from ifmmin.benchmarks.device.readings import ProbeUnavailable, Readings
from ifmmin.runtime.doctor.versions import integer

_SENSORS = "/sys/class/hwmon/hwmon*/name"
_NOT_CONNECTED = "NC"
_SYSTEM_INPUT = "VIN"


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
        found = [rail for path in machine.find(_SENSORS) for rail in _rails_of(machine, path)]
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
