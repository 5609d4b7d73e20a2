"""The processor: its cores, caches and clocks, and what virtual machines and containers take."""

from __future__ import annotations

import re

from ifmmin.benchmarks.device.arm import core_kinds
from ifmmin.benchmarks.device.facts import Cache, Frequency, Processor
from ifmmin.benchmarks.device.machine import Machine, number
from ifmmin.benchmarks.device.quota import cpu_quota
from ifmmin.runtime.doctor.cpu import find_cpu
from ifmmin.runtime.doctor.versions import integer

FLAGS = (
    "avx", "f16c", "fma", "avx2", "avx_vnni", "avx_vnni_int8", "avx512f", "avx512bw", "avx512vl",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
    "neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16",
    "sme", "sme2",
)  # fmt: skip
"""As the kernel names them: asimd is Neon of 64 bits, asimddp its dot products of bytes."""
_CPUS = "/sys/devices/system/cpu"
_KINDS = {"Data": "d", "Instruction": "i", "Unified": ""}


def find_processor(machine: Machine) -> Processor:
    """Look at /proc/cpuinfo and what sysfs has on cores, caches and clocks."""
    cpuinfo = machine.text("/proc/cpuinfo")
    known = find_cpu(machine)
    source = f"{_CPUS.removesuffix('/cpu')}/clocksource/clocksource0/current_clocksource"
    return Processor(
        model=known.model,
        kinds=core_kinds(cpuinfo),
        flags=find_flags(cpuinfo),
        logical=known.cores,
        physical=_physical(machine),
        usable=known.usable,
        quota=cpu_quota(machine),
        caches=find_caches(machine),
        frequencies=find_frequencies(machine),
        boost=_boost(machine),
        hypervisor=find_hypervisor(machine, cpuinfo),
        clock_source=machine.text(source).strip(),
        load=number(machine.text("/proc/loadavg")),
    )


def find_flags(cpuinfo: str) -> tuple[str, ...]:
    """Those of FLAGS that the first core has."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, flags=re.MULTILINE)
    have = set(found.group(1).split()) if found else set()
    return tuple(flag for flag in FLAGS if flag in have)


def find_caches(machine: Machine) -> tuple[Cache, ...]:
    """Levels and sizes; a cache that cores share counts once."""
    shared: dict[tuple[str, int], set[str]] = {}
    for path in machine.find(f"{_CPUS}/cpu[0-9]*/cache/index[0-9]*/level"):
        folder = path.removesuffix("/level")
        kind = _KINDS.get(machine.text(f"{folder}/type").strip())
        level, kib = integer(machine.text(path)), integer(machine.text(f"{folder}/size"))
        if kind is None or level is None or kib is None:
            continue
        cpus = machine.text(f"{folder}/shared_cpu_list").strip() or folder
        shared.setdefault((f"L{level}{kind}", kib << 10), set()).add(cpus)
    return tuple(
        Cache(name=name, size=size, instances=len(cpus))
        for (name, size), cpus in sorted(shared.items())
    )


def find_frequencies(machine: Machine) -> tuple[Frequency, ...]:
    """The clocks that cpufreq sets, each for the cores that share it."""
    return tuple(
        _frequency(machine, folder.removesuffix("/scaling_governor"))
        for folder in machine.find(f"{_CPUS}/cpufreq/policy[0-9]*/scaling_governor")
    )


def _frequency(machine: Machine, folder: str) -> Frequency:
    def mhz(name: str) -> int | None:
        khz = integer(machine.text(f"{folder}/{name}"))
        return None if khz is None else khz // 1000

    return Frequency(
        name=",".join(machine.text(f"{folder}/affected_cpus").split()) or folder.rpartition("/")[2],
        governor=machine.text(f"{folder}/scaling_governor").strip(),
        driver=machine.text(f"{folder}/scaling_driver").strip(),
        minimum=mhz("scaling_min_freq"),
        maximum=mhz("scaling_max_freq"),
        hardware_maximum=mhz("cpuinfo_max_freq"),
        current=mhz("scaling_cur_freq"),
    )


def find_hypervisor(machine: Machine, cpuinfo: str) -> str:
    """The virtual machine's monitor; `unknown` where only the processor betrays that one is."""
    told = machine.run("systemd-detect-virt", "--vm").strip()
    if told and told != "none":
        return told
    vendor = re.search(r"^Hypervisor vendor:\s*(\S.*)$", machine.run("lscpu"), flags=re.MULTILINE)
    xen = machine.text("/sys/hypervisor/type").strip()
    name = vendor.group(1).strip().lower() if vendor else xen
    virtual = re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, flags=re.MULTILINE)
    return name or ("unknown" if virtual else "")


def _physical(machine: Machine) -> int | None:
    cores = {
        machine.text(path).strip()
        for path in machine.find(f"{_CPUS}/cpu[0-9]*/topology/thread_siblings_list")
    }
    return len(cores) or None


def _boost(machine: Machine) -> bool | None:
    no_turbo = integer(machine.text(f"{_CPUS}/intel_pstate/no_turbo"))
    if no_turbo is not None:
        return no_turbo == 0
    boost = integer(machine.text(f"{_CPUS}/cpufreq/boost"))
    return None if boost is None else boost == 1
