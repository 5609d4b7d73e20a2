"""What a control group, such as a container's, allows of the processor; versions 1 and 2."""

from __future__ import annotations

import re

from ifmmin.benchmarks.device.machine import Machine
from ifmmin.runtime.doctor.versions import integer

_ROOT = "/sys/fs/cgroup"


def cpu_quota(machine: Machine) -> float | None:
    """CPUs' worth of time; None is no limit. The tightest of the groups above this process."""
    limits = [limit for group in _groups(machine) if (limit := _limit(machine, group)) is not None]
    return min(limits, default=None)


def quota_events(machine: Machine) -> int | None:
    """Periods in which the process's groups were held back, since they exist; None is unknown."""
    found = []
    for group in _groups(machine):
        text = machine.text(f"{group}/cpu.stat")
        events = re.search(r"^nr_throttled\s+([0-9]{1,15})$", text, flags=re.MULTILINE)
        if events:
            found.append(int(events.group(1)))
    return max(found, default=None)


def _groups(machine: Machine) -> list[str]:
    """Folders of the control groups that this process is in, the innermost first."""
    found = []
    for line in machine.text("/proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = f"{_ROOT}/{controllers}" if controllers else _ROOT
        parts = [part for part in path.split("/") if part]
        found += ["/".join([root, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
    return found


def _limit(machine: Machine, group: str) -> float | None:
    quota, period = (*machine.text(f"{group}/cpu.max").split(), "", "")[:2]
    quota = quota or machine.text(f"{group}/cpu.cfs_quota_us")
    period = period or machine.text(f"{group}/cpu.cfs_period_us")
    allowed, length = integer(quota), integer(period)
    # `max` and -1 are no limit.
    return allowed / length if allowed and length and allowed > 0 and length > 0 else None
