"""Monitor of a machine while a benchmark runs: `Watch`, and the process that samples for it.

In the process of a benchmark the sampler would hold Python's lock in the midst of what is timed.
In its own it costs a core about a millisecond per look. It ends when its standard input does, so it
cannot outlive the benchmark.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import psutil

from ifmmin.runtime.doctor.collect import integer

from .energy import Energy, Sample, energy_between
from .gpu import Nvml
from .info import device_frequencies, find_throttling, temperatures
from .machine import Machine, Probe, ProbeUnavailable, Readings
from .sensors import Ina, Rapl, Tegrastats

PERIOD = 0.25
"""Seconds between looks: seldom enough not to disturb, often enough for intervals of seconds."""
_FIRST_LOOK = 20.0
"""Seconds that the first sample may take: a driver may have to start for it."""
_SAMPLER = "from ifmmin.benchmarks.device.monitor import main; main()"
_COMMAND = (sys.executable, "-W", "ignore", "-c", _SAMPLER, "")
_LAST_LOOK = 10.0
"""Seconds that the process gets to end: a driver under it may be slow."""
_PAUSE = 0.005
_CLOCKS = "/sys/devices/system/cpu/cpufreq/policy[0-9]*/scaling_cur_freq"
_NICENESS = 10
"""Below the benchmark: a look that comes late is still right, it says when it was taken."""


class Watch:
    """Samples between `start` and `stop`; a `with` block does both. Once stopped it may start anew.

    Times are seconds of `time.monotonic`. A machine that tells nothing, or a sampler that does not
    start, is no error: what comes back says what is not available, and why.

    period: seconds between two looks. command: what samples; the number follows.
    """

    def __init__(self, period: float = PERIOD, command: Sequence[str] = _COMMAND) -> None:
        if not period > 0:
            raise ValueError(f"got a period of {period} s, it must be above 0")
        self.samples: list[Sample] = []
        """What was seen; there once it has stopped."""
        self.missing: tuple[str, ...] = ()
        """Sensors that are not available, each with the reason."""
        self.process: subprocess.Popen[bytes] | None = None
        """The sampler, while it runs."""
        self._command = (*command, str(period))
        # Samples go to a file, so that nobody has to keep up.
        self._folder: Path | None = None
        self._watched: Watched | None = None
        self._began = 0.0

    def start(self) -> None:
        """Begin. Returns with the first sample, or once it is clear that there will be none."""
        if self._folder is not None:
            raise ValueError("the watch runs already; stop it first")
        self.missing, self._folder = (), Path(tempfile.mkdtemp(prefix="ifmmin-watch-"))
        samples, errors = self._folder / "samples", self._folder / "errors"
        try:
            with samples.open("wb") as output, errors.open("wb") as complaints:
                self.process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=complaints,
                    # numpy's threads would only be in the way of what is measured.
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    # Ctrl-C is the benchmark's: this ends by itself when its input does.
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            self.missing = (f"the sampler does not start: {error}",)
        until = time.monotonic() + _FIRST_LOOK
        while self.process and self.process.poll() is None and time.monotonic() < until:
            if samples.read_bytes().count(b"\n") > 1:
                break
            time.sleep(_PAUSE)
        self._began = time.monotonic()

    def stop(self) -> Watched:
        """End, with what was seen since `start`. A second call gives the same again."""
        if self._folder is not None:
            ended, folder, self._folder = time.monotonic(), self._folder, None
            if self.process is not None:
                fault = _end(self.process, folder / "errors")
                self.process = None
                try:
                    opening, self.samples = read_lines((folder / "samples").read_bytes())
                except (OSError, msgspec.DecodeError) as error:
                    opening, self.samples = (), []
                    fault = f"the samples cannot be read: {error}"
                self.missing = (*([fault] if fault else []), *opening)
            shutil.rmtree(folder, ignore_errors=True)
            self._watched = self.between(self._began, ended)
        if self._watched is None:
            raise ValueError("the watch was not started; call start() first")
        return self._watched

    def between(self, began: float, ended: float) -> Watched:
        """What was seen in an interval, once the watch has stopped."""
        return summarise(self.samples, began, ended, self.missing)

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def _end(process: subprocess.Popen[bytes], errors: Path) -> str:
    """Ask the sampler for a last sample and end it. Says why it ended early; else nothing."""
    early = process.poll() is not None
    try:
        process.communicate(timeout=_LAST_LOOK)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if not early and not process.returncode:
        return ""
    lines = [line.strip() for line in errors.read_text(errors="replace").split("\n")]
    complaint = next(filter(None, reversed(lines)), f"code {process.returncode}")
    return f"the sampler ended early: {complaint}"


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """How a value moved."""

    low: float
    median: float
    high: float


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """One interval of a run."""

    seconds: float
    samples: int
    celsius: dict[str, Span] = {}
    """By zone."""
    mhz: dict[str, Span] = {}
    """`cpu` is the fastest core of each moment; GPUs by their name."""
    watts: dict[str, Span] = {}
    """By rail, of sensors that tell power."""
    throttled: tuple[str, ...] = ()
    """What held the machine back: an event that was counted, or a limit that a sample saw."""
    busy: float | None = None
    """Share of the time of all CPUs in which they worked, on this benchmark or on other things."""
    stolen: float | None = None
    """Share of the time of all CPUs that the hypervisor gave to other machines."""
    energy: Energy
    missing: tuple[str, ...] = ()
    """Sensors that are not available, each with the reason."""


def summarise(
    samples: Sequence[Sample], began: float, ended: float, missing: Sequence[str] = ()
) -> Watched:
    """The interval from `began` to `ended`, in seconds of `time.monotonic`."""
    inside = [sample for sample in samples if began <= sample.at <= ended]
    # From the last sample before the interval to the first after it: nothing within goes unseen.
    early = [sample for sample in samples if sample.at <= began][-1:] or [*samples[:1]]
    late = [sample for sample in samples if sample.at >= ended][:1] or [*samples[-1:]]
    events, busy, stolen = _between(early[0], late[0]) if samples else ([], None, None)
    limits = {limit for sample in inside for limit in sample.limits}
    return Watched(
        seconds=max(0.0, ended - began),
        samples=len(inside),
        celsius=_spans([sample.celsius for sample in inside]),
        mhz=_spans([sample.mhz for sample in inside]),
        watts=_spans([sample.watts for sample in inside]),
        throttled=(*events, *sorted(limits)),
        busy=busy,
        stolen=stolen,
        energy=energy_between(samples, began, ended, missing),
        missing=tuple(missing),
    )


def _spans(readings: Sequence[Mapping[str, float]]) -> dict[str, Span]:
    values: dict[str, list[float]] = {}
    for reading in readings:
        for name, value in reading.items():
            values.setdefault(name, []).append(value)
    return {
        name: Span(low=min(found), median=float(np.median(found)), high=max(found))
        for name, found in values.items()
    }


def _between(first: Sample, last: Sample) -> tuple[list[str], float | None, float | None]:
    """Events that were counted, and the shares of time that was busy and that was stolen."""
    rises = {name: count - first.counts.get(name, count) for name, count in last.counts.items()}
    events = [f"{name} ({more} times)" for name, more in rises.items() if more > 0]
    spent = []
    for key in ("busy", "stolen", "idle"):
        early, late = getattr(first, key), getattr(last, key)
        if early is None or late is None:
            return events, None, None
        spent.append(max(0.0, late - early))
    total = sum(spent)
    return (events, spent[0] / total, spent[1] / total) if total > 0 else (events, None, None)


class Opening(msgspec.Struct, frozen=True, kw_only=True, tag="opening"):
    """The first line of the file: what this machine does not tell."""

    missing: tuple[str, ...]
    """Sensors that are not available, each with the reason."""


_DECODER = msgspec.json.Decoder(Opening | Sample)


def write_line(line: Opening | Sample) -> bytes:
    """A line of the file."""
    return msgspec.json.encode(line) + b"\n"


def read_lines(content: bytes) -> tuple[tuple[str, ...], list[Sample]]:
    """What is missing, and samples. The last line of a sampler that was killed may be cut."""
    lines = _DECODER.decode_lines(content[: content.rfind(b"\n") + 1])
    missing = [reason for line in lines if isinstance(line, Opening) for reason in line.missing]
    return tuple(missing), [line for line in lines if isinstance(line, Sample)]


class Remembering(Machine):
    """Which files there are is asked once: searching takes longer than reading."""

    find = functools.cache(Machine.find)


class Sampler:
    """All probes that work on this machine."""

    def __init__(
        self, machine: Machine, period: float, open_gpus: Callable[[], Nvml] = Nvml
    ) -> None:
        self.missing: list[str] = []
        self._machine = machine
        self._probes: list[Probe] = []
        self._add(lambda: Rapl(machine))
        if not self._add(lambda: Ina(machine)):
            self._add(lambda: Tegrastats(machine, period))
        self._add(open_gpus)

    def look(self) -> Sample:
        """One sample."""
        began, spent = time.monotonic(), psutil.cpu_times()
        sample = Sample(
            at=began,
            busy=spent.user + spent.nice + spent.system + spent.irq + spent.softirq,
            stolen=spent.steal,
            idle=spent.idle + spent.iowait,
        )
        sample.update(read_state(self._machine))
        for probe in self._probes:
            sample.update(probe.read())
        # Reading takes a while on a slow bus: its middle is the fairest moment.
        sample.at = (began + time.monotonic()) / 2
        return sample

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
    """Sample until standard input ends; arguments: where files lie, seconds between looks."""
    root, period = sys.argv[1], float(sys.argv[2])
    # Windows has no such call; there the sampler runs beside the benchmark.
    getattr(os, "nice", lambda _: None)(_NICENESS)
    over = threading.Event()

    def listen() -> None:
        # Not by sys.stdin: a thread that waits in its buffer must not be there when Python ends.
        while os.read(0, 4096):
            pass
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    sampler = Sampler(Remembering(root), period)
    try:
        run(sampler, period, over, sys.stdout.buffer)
    finally:
        sampler.close()


def read_state(machine: Machine) -> Readings:
    """Temperatures, clocks and throttling of this moment: all that needs no tool."""
    throttling = find_throttling(machine)
    counts = {
        "core throttling": throttling.core_events,
        "package throttling": throttling.package_events,
        "CPU quota used up": throttling.quota_events,
        **{f"over-current {name}": count for name, count in throttling.over_current.items()},
    }
    # The fastest core is the one that works; idle ones say nothing of a benchmark. Not by psutil,
    # which tells the nominal clock where there is no other, as in virtual machines.
    cores = [integer(machine.text(path)) for path in machine.find(_CLOCKS)]
    fastest = max((khz // 1000 for khz in cores if khz is not None), default=None)
    mhz = {"cpu": fastest, **{clock.name: clock.current for clock in device_frequencies(machine)}}
    return Readings(
        celsius={zone.zone: zone.celsius for zone in temperatures(machine)},
        mhz={name: now for name, now in mhz.items() if now is not None},
        counts={name: count for name, count in counts.items() if count is not None},
        limits={device.name for device in throttling.cooling},
    )
