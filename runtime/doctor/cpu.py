"""The processor, and what its instructions mean for graphs in 8 bits."""

from __future__ import annotations

import os
import re

from ifmmin.runtime.doctor.facts import Cpu
from ifmmin.runtime.doctor.host import Host
from ifmmin.runtime.doctor.versions import integer

X86_FLAGS = ("fma", "f16c", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
ARM_FLAGS = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve")
X86_EIGHT_BITS = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Any of these adds products of bytes without the detour that saturates."""
_ARM_CORES = {("0x41", "0xd42"): "Cortex-A78AE (Orin)", ("0x41", "0xd83"): "Neoverse-V3AE (Thor)"}
_FREQUENCY = "/sys/devices/system/cpu/cpu0/cpufreq"


def find_cpu(host: Host) -> Cpu:
    """Look at /proc/cpuinfo and the first core's frequency."""
    model, cores, flags = parse_cpuinfo(host.text("/proc/cpuinfo"))

    def frequency(name: str) -> int | None:
        khz = integer(host.text(f"{_FREQUENCY}/{name}"))
        return None if khz is None else khz // 1000

    return Cpu(
        model=model,
        cores=cores,
        usable=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        flags=flags,
        governor=host.text(f"{_FREQUENCY}/scaling_governor").strip(),
        driver=host.text(f"{_FREQUENCY}/scaling_driver").strip(),
        minimum_mhz=frequency("scaling_min_freq"),
        maximum_mhz=frequency("scaling_max_freq"),
        current_mhz=frequency("scaling_cur_freq"),
    )


def parse_cpuinfo(text: str) -> tuple[str, int, tuple[str, ...]]:
    """Model, cores and the flags that matter, of x86 or Arm."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    cores = len(re.findall(r"^processor\s*:", text, flags=re.MULTILINE))
    have = set(f"{fields.get('flags', '')} {fields.get('features', '')}".split())
    flags = tuple(flag for flag in (*X86_FLAGS, *ARM_FLAGS) if flag in have)
    part = (fields.get("cpu implementer", ""), fields.get("cpu part", ""))
    arm = _ARM_CORES.get(part) or (f"Arm part {part[1]}" if part[1] else "")
    return fields.get("model name") or arm, cores, flags


def eight_bits(cpu: Cpu) -> str:
    """What the processor does with bytes, in one phrase."""
    have = [flag for flag in (*X86_EIGHT_BITS, "i8mm", "asimddp") if flag in cpu.flags]
    if have:
        return f"products of bytes in hardware ({', '.join(have)})"
    if "asimd" in cpu.flags:
        return "no dot product of bytes (asimddp): 8 bits save memory, not time"
    if "avx2" in cpu.flags:
        return "no VNNI: int8 graphs are made not to saturate, and may gain little time"
    return "nothing known of products of bytes"
