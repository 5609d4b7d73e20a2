"""How the CPUs spent their time since boot, by /proc/stat."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ifmmin.benchmarks.device.machine import Machine


@dataclass(frozen=True)
class CpuTime:
    """Seconds, all CPUs together."""

    busy: float
    idle: float
    stolen: float
    """The hypervisor gave to others while this machine had work."""


def cpu_time(machine: Machine) -> CpuTime | None:
    """None where the kernel does not say."""
    found = re.match(r"cpu +((?:[0-9]{1,18} +){7}[0-9]{1,18})", machine.text("/proc/stat"))
    if not found:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, idle, waiting, interrupt, soft, stolen = (
        int(part) / ticks for part in found.group(1).split()
    )
    busy = user + nice + system + interrupt + soft
    return CpuTime(busy=busy, idle=idle + waiting, stolen=stolen)
