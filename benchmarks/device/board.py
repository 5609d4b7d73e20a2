"""A Jetson's clocks by sysfs, where `jetson_clocks --show` would need root."""

from __future__ import annotations

import re

from ifmmin.benchmarks.device.facts import Board, Frequency
from ifmmin.benchmarks.device.machine import Machine
from ifmmin.benchmarks.device.processor import find_frequencies
from ifmmin.runtime.doctor.jetson import find_jetson
from ifmmin.runtime.doctor.versions import integer

_DEVICES = "/sys/class/devfreq/*/cur_freq"
_GPU = re.compile(r"(?:.*\.)?(?:gpu|ga10b|gv11b|gp10b)|gpu-gpc-\d+")
"""JetPack 6, 5, Xavier and TX2; Thor has one for each part of its GPU."""
_MEMORY = re.compile(r"bwmgr|.*emc.*")


def find_board(machine: Machine) -> Board | None:
    """None where this is no Jetson."""
    module = find_jetson(machine)
    if module is None:
        return None
    frequencies = device_frequencies(machine)
    return Board(module=module, frequencies=frequencies, pinned=_pinned(machine, frequencies))


def device_frequencies(machine: Machine) -> tuple[Frequency, ...]:
    """Clocks of GPU and memory."""
    found = []
    for path in machine.find(_DEVICES):
        folder = path.removesuffix("/cur_freq")
        name = folder.rpartition("/")[2]
        if not (_GPU.fullmatch(name) or _MEMORY.fullmatch(name)):
            continue
        hertz = [integer(machine.text(f"{folder}/{key}_freq")) for key in ("min", "max", "cur")]
        low, high, now = (None if hz is None else hz // 1_000_000 for hz in hertz)
        governor = machine.text(f"{folder}/governor").strip()
        found.append(
            Frequency(name=name, governor=governor, minimum=low, maximum=high, current=now)
        )
    return tuple(found)


def _pinned(machine: Machine, devices: tuple[Frequency, ...]) -> bool | None:
    known = [
        clock
        for clock in (*find_frequencies(machine), *devices)
        if clock.minimum is not None and clock.maximum is not None
    ]
    return all(clock.minimum == clock.maximum for clock in known) if known else None
