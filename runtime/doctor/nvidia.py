"""NVIDIA GPUs and their driver: from the PCI bus, /proc, nvidia-smi and the driver itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ifmmin.runtime.doctor.facts import Gpu, Nvidia
from ifmmin.runtime.doctor.host import Host
from ifmmin.runtime.doctor.versions import integer

FIELDS = ("name", "compute_cap", "memory.total", "temperature.gpu", "clocks.sm", "clocks.max.sm")
QUERY = (
    "nvidia-smi",
    f"--query-gpu=driver_version,{','.join(FIELDS)}",
    "--format=csv,noheader,nounits",
)
_VENDOR = "0x10de"
_DISPLAY = "0x03"
"""Class of PCI devices; the same cards have sound devices too."""


def find_nvidia(host: Host, cuda: Mapping[str, Any]) -> Nvidia:
    """Put together what there is. cuda: what the driver's own library said; see `ask_cuda`."""
    driver, gpus = parse_smi(host.run(*QUERY))
    return Nvidia(
        pci_devices=_pci_devices(host),
        driver=driver or parse_driver(host.text("/proc/driver/nvidia/version")),
        cuda=str(cuda.get("version", "")),
        cuda_error=str(cuda.get("error", "")),
        gpus=gpus or _by_driver(cuda.get("gpus")),
    )


def parse_smi(text: str) -> tuple[str, tuple[Gpu, ...]]:
    """Driver and GPUs from the answer to `QUERY`; a Jetson's older nvidia-smi has `[N/A]` in it."""
    driver, gpus = "", []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(FIELDS) + 1:
            continue
        driver = cells[0] if integer(cells[0]) is not None else ""
        name, capability, memory, temperature, clock, maximum = cells[1:]
        gpus.append(
            Gpu(
                name=name,
                compute_capability=capability if re.fullmatch(r"\d+\.\d+", capability) else "",
                memory=(integer(memory) or 0) << 20,
                temperature=integer(temperature),
                clock_mhz=integer(clock),
                maximum_clock_mhz=integer(maximum),
            )
        )
    return driver, tuple(gpus)


def parse_driver(text: str) -> str:
    """The driver's version from /proc/driver/nvidia/version, of the closed or open module."""
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)*)\s", text)
    return found.group(1) if found else ""


def _by_driver(found: Any) -> tuple[Gpu, ...]:
    gpus = []
    for gpu in found if isinstance(found, list) else []:
        if isinstance(gpu, dict):
            name, capability = str(gpu.get("name", "")), str(gpu.get("compute_capability", ""))
            memory = gpu.get("memory", 0)
            size = memory if isinstance(memory, int) and 0 <= memory < 1 << 60 else 0
            gpus.append(Gpu(name=name, compute_capability=capability, memory=size))
    return tuple(gpus)


def _pci_devices(host: Host) -> int:
    folders = [path.rpartition("/")[0] for path in host.find("/sys/bus/pci/devices/*/vendor")]
    return sum(
        host.text(f"{folder}/vendor").strip() == _VENDOR
        and host.text(f"{folder}/class").strip().startswith(_DISPLAY)
        for folder in folders
    )
