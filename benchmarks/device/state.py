"""Temperatures, clocks and throttling while a benchmark runs: all that sysfs has, in one look."""

from __future__ import annotations

from ifmmin.benchmarks.device.board import device_frequencies
from ifmmin.benchmarks.device.machine import Machine
from ifmmin.benchmarks.device.readings import Readings
from ifmmin.benchmarks.device.thermal import temperatures
from ifmmin.benchmarks.device.throttling import find_throttling
from ifmmin.runtime.doctor.versions import integer

_CLOCKS = "/sys/devices/system/cpu/cpufreq/policy[0-9]*/scaling_cur_freq"


class State:
    """The probe of everything that needs no tool."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def read(self) -> Readings:
        """Look at all files once."""
        machine, throttling = self._machine, find_throttling(self._machine)
        counts = {
            "core throttling": throttling.core_events,
            "package throttling": throttling.package_events,
            "CPU quota used up": throttling.quota_events,
            **{f"over-current {name}": count for name, count in throttling.over_current.items()},
        }
        return Readings(
            celsius={zone.zone: zone.celsius for zone in temperatures(machine)},
            mhz=self._clocks(),
            counts={name: count for name, count in counts.items() if count is not None},
            limits={device.name for device in throttling.cooling},
        )

    def close(self) -> None:
        """Nothing is held."""

    def _clocks(self) -> dict[str, int]:
        cores = [integer(self._machine.text(path)) for path in self._machine.find(_CLOCKS)]
        # The fastest core is the one that works; idle ones say nothing of a benchmark.
        fastest = max((khz for khz in cores if khz is not None), default=None)
        devices = {clock.name: clock.current for clock in device_frequencies(self._machine)}
        found = {"cpu": None if fastest is None else fastest // 1000, **devices}
        return {name: mhz for name, mhz in found.items() if mhz is not None}
