"""A Jetson: its module, its Jetson Linux, its power mode and its clocks."""

from __future__ import annotations

import re

from ifmmin.runtime.doctor.facts import Clock, Jetson
from ifmmin.runtime.doctor.host import Host

CAPABILITIES = {"tegra194": "7.2", "tegra234": "8.7", "tegra264": "11.0"}
"""Compute capability by SoC: Xavier, Orin, Thor. Known even where the driver is not."""
_SYSTEM_MODULE = "/usr/lib/python3*/dist-packages/tensorrt/__init__.py"


def find_jetson(host: Host) -> Jetson | None:
    """None where this is no Jetson."""
    release = host.text("/etc/nv_tegra_release")
    compatible = host.text("/proc/device-tree/compatible").replace("\0", " ")
    soc = re.search(r"nvidia,(tegra\d{1,6})\b", compatible)
    if not release and not soc:
        return None
    return Jetson(
        model=host.text("/proc/device-tree/model").replace("\0", "").strip(),
        soc=soc.group(1) if soc else "",
        l4t=parse_release(release),
        jetpack=host.run("dpkg-query", "-W", "-f=${Version}", "nvidia-jetpack").strip(),
        power_mode=parse_power_mode(host.run("nvpmodel", "-q")),
        clocks=parse_clocks(host.run("jetson_clocks", "--show")),
        system_tensorrt=next(iter(host.find(_SYSTEM_MODULE)), ""),
    )


def parse_release(text: str) -> str:
    """`36.4.3` from the first line of /etc/nv_tegra_release."""
    found = re.search(r"R(\d{1,4})\s*\(release\),\s*REVISION:\s*(\d{1,4}(?:\.\d{1,4})*)", text)
    return f"{found.group(1)}.{found.group(2)}" if found else ""


def parse_power_mode(text: str) -> str:
    """`MAXN` from what `nvpmodel -q` prints."""
    found = re.search(r"NV Power Mode\s*:\s*(\S+)", text)
    return found.group(1) if found else ""


def parse_clocks(text: str) -> tuple[Clock, ...]:
    """CPU cores, GPU and memory (EMC) from what `jetson_clocks --show` prints."""
    found = []
    for line in text.splitlines():
        name = re.match(r"\s*(cpu\d{1,3}|GPU|EMC)\b", line)
        numbers = dict(re.findall(r"(\w+Freq|FreqOverride)=(\d{1,15})\b", line))
        if not name or not {"MinFreq", "MaxFreq", "CurrentFreq"} <= numbers.keys():
            continue
        low, high, now = (int(numbers[key]) for key in ("MinFreq", "MaxFreq", "CurrentFreq"))
        # The memory's limits stay apart when it is pinned.
        pinned = numbers.get("FreqOverride") == "1" or low == high
        clock = Clock(name=name.group(1), minimum=low, maximum=high, current=now, pinned=pinned)
        found.append(clock)
    return tuple(found)
