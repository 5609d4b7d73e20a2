"""What tells one device from another, as far as the speed of a graph depends on it."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

_NVPMODEL = Path("/var/lib/nvpmodel/status")
_TEGRA = Path("/etc/nv_tegra_release")
_GPUS = Path("/proc/driver/nvidia/gpus")


@cache
def device_name() -> str:
    """Processor, cores, GPUs and, on a Jetson, its release and power mode; one line."""
    parts = [_machine(), _processor(), f"{os.cpu_count()} cores", *_gpus()]
    for path in (_TEGRA, _NVPMODEL):
        text = _read(path)
        if text:
            parts.append(text.splitlines()[0])
    return " | ".join(part for part in parts if part)


def usable_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _machine() -> str:
    try:
        return os.uname().machine
    except AttributeError:  # not on every system
        return sys.platform


def _processor() -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.lower().startswith(("model name", "cpu part")):
            return line.split(":", 1)[1].strip()
    return ""


def _gpus() -> list[str]:
    found = []
    for path in sorted(_GPUS.glob("*/information")) if _GPUS.is_dir() else ():
        for line in _read(path).splitlines():
            if line.startswith("Model"):
                found.append(line.split(":", 1)[1].strip())
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
