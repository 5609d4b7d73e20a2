"""NVIDIA GPUs by nvidia-smi: at one moment, and again and again while a benchmark runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ifmmin.benchmarks.device.facts import Gpu, Nvidia
from ifmmin.benchmarks.device.machine import Machine, number
from ifmmin.runtime.doctor.nvidia import find_nvidia
from ifmmin.runtime.doctor.versions import integer

FIELDS = (
    "driver_version", "name", "compute_cap", "memory.total", "memory.used", "temperature.gpu",
    "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem", "power.draw", "power.limit",
    "power.default_limit", "pstate", "persistence_mode", "mig.mode.current",
    "pcie.link.gen.current", "pcie.link.width.current", "reasons",
)  # fmt: skip
"""What is asked once. `reasons` stands for one of REASONS_FIELDS."""
WATCHED = ("index", "temperature.gpu", "clocks.sm", "power.draw", "reasons")
"""What is asked again and again."""
REASONS_FIELDS = ("clocks_throttle_reasons.active", "clocks_event_reasons.active")
"""The older name, which drivers know beside the newer one, then the newer for the day it is gone.
A driver that does not know one field answers none."""
REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal slowdown by software",
    0x40: "thermal slowdown by hardware",
    0x80: "power brake",
    0x200: "board limit",
    0x400: "reliability",
}
"""Bits of NVML's reasons for lower clocks. An idle GPU and clocks that the user set are none."""


def queries(fields: Sequence[str], *options: str) -> Iterator[tuple[str, ...]]:
    """Commands that ask for these fields, the likelier one first."""
    for reasons in REASONS_FIELDS:
        names = ",".join(reasons if field == "reasons" else field for field in fields)
        yield ("nvidia-smi", f"--query-gpu={names}", "--format=csv,noheader,nounits", *options)


def find_gpus(machine: Machine, cuda: Mapping[str, Any]) -> Nvidia:
    """GPUs and driver. cuda: what the driver's own library said, see the doctor's `ask_cuda`."""
    driver, gpus = _ask(machine)
    # A driver too old for one of the fields answers none of them: the doctor asks for few.
    known = find_nvidia(machine, {} if gpus else cuda)
    return Nvidia(
        driver=driver or known.driver,
        cuda=str(cuda.get("version", "")),
        error=str(cuda.get("error", "")),
        gpus=gpus
        or tuple(
            Gpu(
                name=gpu.name,
                compute_capability=gpu.compute_capability,
                memory=gpu.memory,
                celsius=gpu.temperature,
                sm_mhz=gpu.clock_mhz,
                sm_mhz_maximum=gpu.maximum_clock_mhz,
            )
            for gpu in known.gpus
        ),
    )


def _ask(machine: Machine) -> tuple[str, tuple[Gpu, ...]]:
    for query in queries(FIELDS):
        driver, gpus = parse_gpus(machine.run(*query))
        if gpus:
            return driver, gpus
    return "", ()


def parse_gpus(text: str) -> tuple[str, tuple[Gpu, ...]]:
    """Driver and GPUs from the answer to FIELDS; what a GPU does not tell reads `[N/A]`."""
    driver, gpus = "", []
    for line in text.splitlines():
        values = [cell.strip() for cell in line.split(",")]
        cells: dict[str, str] = dict(zip(FIELDS, values, strict=False))
        if len(cells) < len(FIELDS):
            continue
        driver = cells["driver_version"] if integer(cells["driver_version"]) is not None else ""
        gpus.append(_gpu(cells))
    return driver, tuple(gpus)


def _gpu(cells: Mapping[str, str]) -> Gpu:
    capability = cells["compute_cap"]
    used = integer(cells["memory.used"])
    generation, width = (integer(cells[f"pcie.link.{key}.current"]) for key in ("gen", "width"))
    return Gpu(
        name=cells["name"],
        compute_capability=capability if re.fullmatch(r"\d+\.\d+", capability) else "",
        memory=(integer(cells["memory.total"]) or 0) << 20,
        memory_used=None if used is None else used << 20,
        celsius=integer(cells["temperature.gpu"]),
        sm_mhz=integer(cells["clocks.sm"]),
        sm_mhz_maximum=integer(cells["clocks.max.sm"]),
        memory_mhz=integer(cells["clocks.mem"]),
        memory_mhz_maximum=integer(cells["clocks.max.mem"]),
        watts=number(cells["power.draw"]),
        watts_limit=number(cells["power.limit"]),
        watts_default=number(cells["power.default_limit"]),
        state=cells["pstate"] if re.fullmatch(r"P\d{1,2}", cells["pstate"]) else "",
        persistent={"Enabled": True, "Disabled": False}.get(cells["persistence_mode"]),
        mig=mode if (mode := cells["mig.mode.current"]) in ("Enabled", "Disabled") else "",
        pcie=f"gen {generation} x{width}" if generation and width else "",
        limits=decode_reasons(cells["reasons"]),
    )


def decode_reasons(mask: str) -> tuple[str, ...]:
    """What holds the clocks down, from a mask such as `0x0000000000000004`."""
    found = re.fullmatch(r"0x([0-9a-fA-F]{1,16})", mask.strip())
    bits = int(found.group(1), 16) if found else 0
    return tuple(reason for bit, reason in REASONS.items() if bits & bit)
