"""Looks at the machine again and again, in a process of its own: `python -m ... --period 0.25`.

In the process of a benchmark it would hold Python's lock in the midst of what is timed. Here it
costs a core about a millisecond per look. It ends when its standard input does, so it cannot
outlive the benchmark.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from ifmmin.benchmarks.device.cpu_time import cpu_time
from ifmmin.benchmarks.device.ina import Ina
from ifmmin.benchmarks.device.machine import Machine
from ifmmin.benchmarks.device.nvml import load_nvml, watch_gpus
from ifmmin.benchmarks.device.rapl import Rapl
from ifmmin.benchmarks.device.readings import Probe, ProbeUnavailable, Readings
from ifmmin.benchmarks.device.sample import Opening, Sample, write_line
from ifmmin.benchmarks.device.state import State
from ifmmin.benchmarks.device.tegrastats import Tegrastats

_NICENESS = 10
"""Below the benchmark: a look that comes late is still right, it says when it was taken."""


class Remembering(Machine):
    """Which files there are is asked once: searching takes longer than reading."""

    def __init__(self, root: str = "") -> None:
        super().__init__(root)
        self._known: dict[str, list[str]] = {}

    def find(self, pattern: str) -> list[str]:
        """The paths that fitted at the first time."""
        if pattern not in self._known:
            self._known[pattern] = super().find(pattern)
        return self._known[pattern]


class Sampler:
    """All probes that work on this machine."""

    def __init__(self, machine: Machine, period: float, nvml: Any | None) -> None:
        self.missing: list[str] = []
        self._machine = machine
        self._probes: list[Probe] = [State(machine)]
        self._add(lambda: Rapl(machine))
        if not self._add(lambda: Ina(machine)):
            self._add(lambda: Tegrastats(machine, period))
        self._add(lambda: watch_gpus(machine, period, nvml))

    def look(self) -> Sample:
        """One sample."""
        began, readings = time.monotonic(), Readings()
        for probe in self._probes:
            readings.update(probe.read())
        spent = cpu_time(self._machine)
        return Sample(
            # Reading takes a while on a slow bus: its middle is the fairest moment.
            at=(began + time.monotonic()) / 2,
            joules=readings.joules,
            watts=readings.watts,
            celsius=readings.celsius,
            mhz=readings.mhz,
            counts=readings.counts,
            limits=tuple(sorted(readings.limits)),
            busy=spent.busy if spent else None,
            stolen=spent.stolen if spent else None,
            idle=spent.idle if spent else None,
        )

    def close(self) -> None:
        """End all tools."""
        for probe in self._probes:
            probe.close()

    def _add(self, make: Callable[[], Probe]) -> bool:
        try:
            self._probes.append(make())
        except ProbeUnavailable as reason:
            self.missing.append(str(reason))
            return False
        return True


def run(sampler: Sampler, period: float, over: threading.Event, output: BinaryIO) -> None:
    """Write samples until it is over, and one more then."""
    output.write(write_line(Opening(missing=tuple(sampler.missing))))
    due = time.monotonic()
    while True:
        last = over.is_set()
        output.write(write_line(sampler.look()))
        output.flush()
        if last:
            return
        due = max(due + period, time.monotonic())
        over.wait(due - time.monotonic())


def main() -> None:
    """Sample until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--period", type=float, required=True, help="seconds between looks")
    parser.add_argument("--root", default="", help="where the machine's files lie")
    options = parser.parse_args()
    # Windows has no such call; there the sampler runs beside the benchmark.
    getattr(os, "nice", lambda _: None)(_NICENESS)
    over = threading.Event()

    def listen() -> None:
        # Not by sys.stdin: a thread that waits in its buffer must not be there when Python ends.
        while os.read(0, 4096):
            pass
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    sampler = Sampler(Remembering(options.root), options.period, load_nvml())
    try:
        run(sampler, options.period, over, sys.stdout.buffer)
    finally:
        sampler.close()


if __name__ == "__main__":
    main()
