"""Temperatures: the kernel's thermal zones, and the sensor in the processor itself."""

from __future__ import annotations

from ifmmin.benchmarks.device.machine import Machine
from ifmmin.runtime.doctor.facts import Temperature
from ifmmin.runtime.doctor.system import find_temperatures
from ifmmin.runtime.doctor.versions import integer

_SENSORS = {"coretemp": "Package", "k10temp": "Tctl", "zenpower": "Tdie", "cpu_thermal": ""}
"""Drivers of processors' sensors, and how the label of the one that counts begins."""


def temperatures(machine: Machine) -> tuple[Temperature, ...]:
    """Zones, then sensors of processors that are no zones: AMD's, and Intel's without a driver."""
    return (*find_temperatures(machine), *_sensors(machine))


def _sensors(machine: Machine) -> list[Temperature]:
    found = []
    for path in machine.find("/sys/class/hwmon/hwmon*/name"):
        driver = machine.text(path).strip()
        if driver not in _SENSORS:
            continue
        for reading in machine.find(f"{path.removesuffix('/name')}/temp*_input"):
            label = machine.text(reading.replace("_input", "_label")).strip()
            millis = integer(machine.text(reading))
            if millis is not None and label.startswith(_SENSORS[driver]):
                name = f"{driver} {label}".strip()
                found.append(Temperature(zone=name, celsius=millis / 1000))
    return found
