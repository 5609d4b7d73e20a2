"""Which sensors of energy and power can be read here, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable

from ifmmin.benchmarks.device.facts import Nvidia, PowerSource
from ifmmin.benchmarks.device.ina import Ina
from ifmmin.benchmarks.device.machine import Machine
from ifmmin.benchmarks.device.nvml import PACKAGE
from ifmmin.benchmarks.device.rapl import Rapl
from ifmmin.benchmarks.device.readings import ProbeUnavailable
from ifmmin.benchmarks.device.tegrastats import TOOL


def find_power(
    machine: Machine, nvidia: Nvidia, jetson: bool
) -> tuple[tuple[PowerSource, ...], tuple[str, ...]]:
    """Sources, and reasons. Starts no tool, so what tegrastats would tell is not known yet."""
    sources, reasons = [], []
    sensors: list[tuple[str, Callable[[Machine], Rapl | Ina]]] = [("rapl", Rapl), ("ina", Ina)]
    for name, make in sensors:
        try:
            sensor = make(machine)
        except ProbeUnavailable as reason:
            reasons.append(str(reason))
        else:
            sources.append(PowerSource(name=name, rails=sensor.rails, counts=sensor.counts))
    if jetson and not any(source.name == "ina" for source in sources) and machine.find(TOOL):
        sources.append(PowerSource(name="tegrastats", rails=(), counts=False))
    gpus = tuple(f"gpu{i}" for i, gpu in enumerate(nvidia.gpus) if gpu.watts is not None)
    if gpus:
        counts = machine.package(PACKAGE) is not None
        sources.append(PowerSource(name="nvidia", rails=gpus, counts=counts))
        if not counts:
            reasons.append(f"the GPU's energy counter: install {PACKAGE}; its power is sampled")
    elif nvidia.gpus:
        reasons.append("GPU: nvidia-smi tells no power here")
    return tuple(sources), tuple(reasons)
