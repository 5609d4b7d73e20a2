"""Operating system, Python, memory, temperatures and search path of the loader."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

from ifmmin.runtime.doctor.facts import Folder, Memory, Python, System, Temperature
from ifmmin.runtime.doctor.host import Host
from ifmmin.runtime.doctor.versions import integer

_HOTTEST = 200.0
"""Degrees; sensors that are not there report fantastic values."""


def find_python(host: Host) -> Python:
    """The interpreter, and whether it sees the system's packages."""
    virtual = sys.prefix != sys.base_prefix
    settings = host.text(str(Path(sys.prefix) / "pyvenv.cfg")) if virtual else ""
    return Python(
        version=platform.python_version(),
        virtual=virtual,
        system_packages=not virtual or sees_system(settings),
    )


def sees_system(settings: str) -> bool:
    """Whether a pyvenv.cfg lets the system's packages in."""
    pattern = r"^\s*include-system-site-packages\s*=\s*true\s*$"
    return re.search(pattern, settings, flags=re.IGNORECASE | re.MULTILINE) is not None


def find_system(host: Host) -> System:
    """The distribution, the kernel and the C library."""
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', host.text("/etc/os-release"), re.MULTILINE)
    boxed = host.find("/.dockerenv") or host.find("/run/.containerenv")
    return System(
        name=name.group(1) if name else platform.system(),
        kernel=platform.release(),
        libc=" ".join(platform.libc_ver()).strip(),
        machine=platform.machine(),
        container=bool(boxed),
    )


def find_memory(host: Host) -> Memory:
    """Main memory and swap."""
    return parse_meminfo(host.text("/proc/meminfo"))


def parse_meminfo(text: str) -> Memory:
    """The numbers of /proc/meminfo."""
    pairs = re.findall(r"^(\w+):\s*([0-9]{1,15})\s*kB", text, flags=re.MULTILINE)
    found = {name: int(size) * 1024 for name, size in pairs}
    return Memory(
        total=found.get("MemTotal", 0),
        available=found.get("MemAvailable", 0),
        swap=found.get("SwapTotal", 0),
    )


def find_temperatures(host: Host) -> tuple[Temperature, ...]:
    """The thermal zones of the kernel."""
    found = []
    for folder in host.find("/sys/class/thermal/thermal_zone*"):
        millis = integer(host.text(f"{folder}/temp"))
        # On a Jetson, a zone that is switched off cannot be read.
        if millis is not None and 0 < millis / 1000 < _HOTTEST:
            zone = host.text(f"{folder}/type").strip() or folder.rpartition("/")[2]
            found.append(Temperature(zone=zone, celsius=millis / 1000))
    return tuple(found)


def find_library_path(host: Host) -> tuple[Folder, ...]:
    """The entries of LD_LIBRARY_PATH."""
    entries = host.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    entries = list(dict.fromkeys(entry for entry in entries if entry))
    return tuple(Folder(path=entry, exists=bool(host.find(entry))) for entry in entries)
