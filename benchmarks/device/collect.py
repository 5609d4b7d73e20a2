"""Takes the record of a device: every look by itself, so that one that fails spoils no other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any

from ifmmin.benchmarks.device.board import find_board
from ifmmin.benchmarks.device.facts import (
    DeviceRecord,
    Nvidia,
    PowerSource,
    Processor,
    Software,
    Throttling,
)
from ifmmin.benchmarks.device.machine import Machine
from ifmmin.benchmarks.device.power import find_power
from ifmmin.benchmarks.device.processor import find_processor
from ifmmin.benchmarks.device.revision import find_revision
from ifmmin.benchmarks.device.smi import find_gpus
from ifmmin.benchmarks.device.software import find_software
from ifmmin.benchmarks.device.thermal import temperatures
from ifmmin.benchmarks.device.throttling import find_throttling
from ifmmin.runtime.doctor.ask import Answers, ask
from ifmmin.runtime.doctor.collect import Looking
from ifmmin.runtime.doctor.facts import Memory
from ifmmin.runtime.doctor.system import find_memory

_PATIENCE = 20.0
"""Seconds for libraries that are loaded in a process of their own."""


@functools.cache
def ask_libraries() -> Answers:
    """What the CUDA driver and ONNX Runtime say when they are loaded; asked once per process."""
    return ask(["cuda", "onnxruntime"], patience=_PATIENCE)


def record_device(
    machine: Machine | None = None, answers: Callable[[], Answers] = ask_libraries
) -> DeviceRecord:
    """Everything that is known of this device at this moment. Needs no root and never raises.

    answers: asks libraries, see `ask_libraries`.
    """
    door = machine or Machine()
    look = Looking()
    nothing: Answers = {}
    with ThreadPoolExecutor(1) as background:
        asked = background.submit(answers)
        processor = look("processor", lambda: find_processor(door), Processor())
        board = look("jetson", lambda: find_board(door), None)
        revision = look("revision", lambda: find_revision(door), None)
        told = look("libraries", asked.result, nothing)
    gpus = look("nvidia", lambda: find_gpus(door, _of(told, "cuda")), Nvidia())
    runtime = _of(told, "onnxruntime")
    unknown: tuple[tuple[PowerSource, ...], tuple[str, ...]] = ((), ())
    power, no_power = look("power", lambda: find_power(door, gpus, board is not None), unknown)
    return DeviceRecord(
        taken=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        processor=processor,
        memory=look("memory", lambda: find_memory(door), Memory()),
        nvidia=gpus,
        jetson=board,
        temperatures=look("temperatures", lambda: temperatures(door), ()),
        throttling=look("throttling", lambda: find_throttling(door), Throttling()),
        power=power,
        no_power=no_power,
        software=look("software", lambda: find_software(door, runtime), Software()),
        revision=revision,
        failed=tuple(look.failed),
    )


def _of(answers: Answers, question: str) -> Mapping[str, Any]:
    return answers.get(question, {})
