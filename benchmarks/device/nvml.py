"""GPUs while a benchmark runs: by NVIDIA's library if nvidia-ml-py is there, else by its tool."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ifmmin.benchmarks.device.machine import Machine, number
from ifmmin.benchmarks.device.readings import Probe, ProbeUnavailable, Readings
from ifmmin.benchmarks.device.smi import REASONS, WATCHED, decode_reasons, queries
from ifmmin.runtime.doctor.versions import integer

PACKAGE = "nvidia-ml-py"
_FIRST_LINE = 5.0
"""Seconds that nvidia-smi gets for it: without persistence it starts the driver first."""
_OLDEST = 5.0


def load_nvml() -> Any | None:
    """The module of nvidia-ml-py, its library started; None where either does not work here."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    # Its own error where the driver is missing or another one; another package of the name has
    # neither. Whatever else is raised is a fault that must be seen.
    try:
        nvml.nvmlInit()
    except (getattr(nvml, "NVMLError", AttributeError), AttributeError, OSError):
        return None
    return nvml


def watch_gpus(machine: Machine, period: float, nvml: Any | None) -> Probe:
    """The better of the two ways. Raises ProbeUnavailable with what is missing."""
    if nvml is not None and nvml.nvmlDeviceGetCount() > 0:
        return Nvml(nvml)
    return Smi(machine, period)


class Nvml:
    """Rails `gpu0` and so on; energy by the GPU's own counter where it has one (since Volta)."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        count = nvml.nvmlDeviceGetCount()
        self._gpus = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        self._first: dict[str, int] = {}

    def read(self) -> Readings:
        """Look at every GPU."""
        nvml, found = self._nvml, Readings()
        for index, gpu in enumerate(self._gpus):
            name = f"gpu{index}"
            millijoules = self._ask(nvml.nvmlDeviceGetTotalEnergyConsumption, gpu)
            if millijoules is not None:
                first = self._first.setdefault(name, millijoules)
                found.joules[name] = (millijoules - first) / 1000
            milliwatts = self._ask(nvml.nvmlDeviceGetPowerUsage, gpu)
            if milliwatts is not None:
                found.watts[name] = milliwatts / 1000
            celsius = self._ask(nvml.nvmlDeviceGetTemperature, gpu, nvml.NVML_TEMPERATURE_GPU)
            if celsius is not None:
                found.celsius[name] = float(celsius)
            mhz = self._ask(nvml.nvmlDeviceGetClockInfo, gpu, nvml.NVML_CLOCK_SM)
            if mhz is not None:
                found.mhz[name] = mhz
            bits = self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, gpu) or 0
            found.limits |= {f"{name}: {why}" for bit, why in REASONS.items() if bits & bit}
        return found

    def close(self) -> None:
        """Let go of the library."""
        self._ask(self._nvml.nvmlShutdown)

    def _ask(self, question: Callable[..., int], *arguments: Any) -> int | None:
        try:
            return question(*arguments)
        except self._nvml.NVMLError:
            return None


class Smi:
    """Follows nvidia-smi. Raises ProbeUnavailable where there is none or it tells nothing."""

    def __init__(self, machine: Machine, period: float) -> None:
        reason = "there is no nvidia-smi"
        for query in queries(WATCHED, f"--loop-ms={max(1, round(period * 1000))}"):
            followed = machine.follow(*query)
            if followed is None:
                break
            self._followed = followed
            followed.wait(_FIRST_LINE)
            first = self.read()
            if first.watts or first.celsius or first.mhz:
                return
            self.close()
            reason = "nvidia-smi tells no power, temperature or clock here"
        raise ProbeUnavailable(f"GPU: {reason}")

    def read(self) -> Readings:
        """The newest line of every GPU."""
        found = Readings()
        lines = {line.partition(",")[0].strip(): line for line in self._followed.recent(_OLDEST)}
        for line in lines.values():
            found.update(parse_watched(line))
        return found

    def close(self) -> None:
        """End the tool."""
        self._followed.close()


def parse_watched(line: str) -> Readings:
    """One line of the answer to WATCHED: `0, 41, 1410, 71.52, 0x0000000000000004`."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(WATCHED) or integer(cells[0]) is None:
        return Readings()
    name = f"gpu{integer(cells[0])}"
    celsius, mhz, watts = number(cells[1]), integer(cells[2]), number(cells[3])
    return Readings(
        watts={} if watts is None else {name: watts},
        celsius={} if celsius is None else {name: celsius},
        mhz={} if mhz is None else {name: mhz},
        limits={f"{name}: {reason}" for reason in decode_reasons(cells[4])},
    )
