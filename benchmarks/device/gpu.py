"""NVIDIA GPUs by NVIDIA's library (nvidia-ml-py): at one moment, and while a benchmark runs."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from typing import Any

from ifmmin.runtime.doctor.collect import find_nvidia

from .machine import Gpu, Machine, Nvidia, Probe, ProbeUnavailable, Readings

REASONS = {
    0x4: "power cap", 0x8: "hardware slowdown", 0x10: "sync boost",
    0x20: "thermal slowdown by software", 0x40: "thermal slowdown by hardware",
    0x80: "power brake", 0x200: "board limit", 0x400: "reliability",
}  # fmt: skip
"""Bits of NVML's reasons for lower clocks. An idle GPU and clocks that the user set are none."""


class Nvml(Probe):
    """All GPUs. Raises ProbeUnavailable where there is none to ask, with the cure.

    Rails are `gpu0` and so on; energy by a GPU's own counter where it has one (since Volta).
    module: stands in for the library, started.
    """

    def __init__(self, module: Any | None = None) -> None:
        self._nvml = load_nvml() if module is None else module
        self._gpus = [self._ask("HandleByIndex", index) for index in range(self._ask("Count") or 0)]
        self._first: dict[str, int] = {}
        if not self._gpus:
            self.close()
            raise ProbeUnavailable("GPU: NVIDIA's driver knows none")

    def driver(self) -> str:
        """Version of the driver."""
        return str(self._nvml.nvmlSystemGetDriverVersion())

    def describe(self) -> tuple[Gpu, ...]:
        """What each GPU is, and its state."""
        return tuple(map(self._describe, self._gpus))

    def read(self) -> Readings:
        """Look at every GPU."""
        nvml, found = self._nvml, Readings()
        for index, gpu in enumerate(self._gpus):
            name = f"gpu{index}"
            millijoules = self._ask("TotalEnergyConsumption", gpu)
            if millijoules is not None:
                first = self._first.setdefault(name, millijoules)
                found.joules[name] = (millijoules - first) / 1000
            told = {
                "watts": self._watts("PowerUsage", gpu),
                "celsius": self._ask("Temperature", gpu, nvml.NVML_TEMPERATURE_GPU),
                "mhz": self._ask("ClockInfo", gpu, nvml.NVML_CLOCK_SM),
            }
            for kind, value in told.items():
                if value is not None:
                    getattr(found, kind)[name] = value
            found.limits |= {f"{name}: {why}" for why in self._limits(gpu)}
        return found

    def close(self) -> None:
        """Let go of the library."""
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _describe(self, gpu: Any) -> Gpu:
        nvml = self._nvml
        major, minor = self._ask("CudaComputeCapability", gpu) or ("", "")
        memory = self._ask("MemoryInfo", gpu)
        state = self._ask("PerformanceState", gpu)
        persistent, mig = self._ask("PersistenceMode", gpu), self._ask("MigMode", gpu)
        generation, width = (
            self._ask(f"CurrPcieLink{key}", gpu) for key in ("Generation", "Width")
        )
        return Gpu(
            name=self._ask("Name", gpu) or "",
            compute_capability=f"{major}.{minor}".strip("."),
            memory=memory.total if memory else 0,
            memory_used=memory.used if memory else None,
            celsius=self._ask("Temperature", gpu, nvml.NVML_TEMPERATURE_GPU),
            sm_mhz=self._ask("ClockInfo", gpu, nvml.NVML_CLOCK_SM),
            sm_mhz_maximum=self._ask("MaxClockInfo", gpu, nvml.NVML_CLOCK_SM),
            memory_mhz=self._ask("ClockInfo", gpu, nvml.NVML_CLOCK_MEM),
            memory_mhz_maximum=self._ask("MaxClockInfo", gpu, nvml.NVML_CLOCK_MEM),
            watts=self._watts("PowerUsage", gpu),
            watts_limit=self._watts("PowerManagementLimit", gpu),
            watts_default=self._watts("PowerManagementDefaultLimit", gpu),
            state="" if state is None else f"P{state}",
            persistent=None if persistent is None else bool(persistent),
            mig="" if mig is None else "Enabled" if mig[0] else "Disabled",
            pcie=f"gen {generation} x{width}" if generation and width else "",
            limits=self._limits(gpu),
        )

    def _limits(self, gpu: Any) -> tuple[str, ...]:
        """What holds the clocks down."""
        bits = self._ask("CurrentClocksThrottleReasons", gpu) or 0
        return tuple(why for bit, why in REASONS.items() if bits & bit)

    def _watts(self, name: str, gpu: Any) -> float | None:
        milliwatts = self._ask(name, gpu)
        return None if milliwatts is None else milliwatts / 1000

    def _ask(self, name: str, *arguments: Any) -> Any:
        """The answer; None to what this GPU does not tell."""
        try:
            return getattr(self._nvml, f"nvmlDeviceGet{name}")(*arguments)
        except self._nvml.NVMLError:
            return None


def load_nvml() -> Any:
    """The module of nvidia-ml-py, its library started. Raises ProbeUnavailable with the cure."""
    try:
        nvml = importlib.import_module("pynvml")
        own: type[Exception] = nvml.NVMLError
    except (ImportError, AttributeError) as error:  # another package of the name has no such error
        raise ProbeUnavailable(
            "GPU: nvidia-ml-py is not installed; run pip install '.[bench]'"
        ) from error
    # Whatever else is raised is a fault that must be seen.
    try:
        nvml.nvmlInit()
    except (own, OSError) as error:
        raise ProbeUnavailable(
            f"GPU: NVIDIA's library does not start here ({error}); where there is a GPU, install "
            "its driver"
        ) from error
    return nvml


def find_gpus(machine: Machine, nvml: Nvml | None, reason: str, cuda: Mapping[str, Any]) -> Nvidia:
    """GPUs and driver. cuda: what the driver's own library said, see the doctor's `ask_cuda`.

    reason: why there is no nvml. The doctor then still finds names, which is better than nothing.
    """
    version, error = (str(cuda.get(key, "")) for key in ("version", "error"))
    if nvml is not None:
        return Nvidia(driver=nvml.driver(), cuda=version, error=error, gpus=nvml.describe())
    known = find_nvidia(machine, cuda)
    there = known.gpus or known.pci_devices or known.driver
    return Nvidia(
        driver=known.driver,
        cuda=version,
        error=error or (reason if there else ""),
        gpus=tuple(
            Gpu(name=gpu.name, compute_capability=gpu.compute_capability, memory=gpu.memory)
            for gpu in known.gpus
        ),
    )
