"""What slows the machine down: counters since boot, and what is engaged at this moment."""

from __future__ import annotations

import re

from ifmmin.benchmarks.device.facts import Cooling, Throttling
from ifmmin.benchmarks.device.machine import Machine
from ifmmin.benchmarks.device.quota import quota_events
from ifmmin.runtime.doctor.versions import integer

_CORES = "/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"
_SLOWS = re.compile(
    r"Processor|intel_powerclamp|(?:thermal-)?(?:cpufreq|devfreq)-.*|.*throttle-alert"
)
"""Cooling devices that take speed; the others are fans, screens and radios."""


def find_throttling(machine: Machine) -> Throttling:
    """Read everything that this kernel has of it."""
    cores = _counts(machine, "core_throttle_count")
    packages = _counts(machine, "package_throttle_count")
    over_current = _over_current(machine)
    cooling = _cooling(machine)
    quota = quota_events(machine)
    watched = {
        "processor's own counters": bool(cores or packages),
        "cooling devices": cooling is not None,
        "over-current counters": bool(over_current),
        "CPU quota": quota is not None,
    }
    return Throttling(
        core_events=sum(cores) if cores else None,
        package_events=max(packages, default=None),
        quota_events=quota,
        over_current=over_current,
        cooling=tuple(device for device in cooling or () if device.state > 0),
        watched=tuple(name for name, there in watched.items() if there),
    )


def _counts(machine: Machine, name: str) -> list[int]:
    counts = [integer(machine.text(path)) for path in machine.find(f"{_CORES}/{name}")]
    return [count for count in counts if count is not None]


def _over_current(machine: Machine) -> dict[str, int]:
    found = {}
    for path in machine.find("/sys/class/hwmon/hwmon*/oc[0-9]_event_cnt"):
        count = integer(machine.text(path))
        if count is not None:
            found[path.rpartition("/")[2].partition("_")[0]] = count
    return found


def _cooling(machine: Machine) -> list[Cooling] | None:
    """Those that take speed; None where the kernel has none."""
    found = []
    for path in machine.find("/sys/class/thermal/cooling_device*/type"):
        folder, name = path.removesuffix("/type"), machine.text(path).strip()
        state = integer(machine.text(f"{folder}/cur_state"))
        if _SLOWS.fullmatch(name) and state is not None:
            maximum = integer(machine.text(f"{folder}/max_state")) or 0
            found.append(Cooling(name=name, state=state, maximum=maximum))
    return found or None
