"""Monitor of a machine while a benchmark runs: `Watch`, and the process that samples for it.

In the process of a benchmark the sampler would hold Python's lock in the midst of what is timed.
In its own it costs a core about a millisecond per look. It ends when its standard input does, so it
cannot outlive the benchmark.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
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
        self.period = period
        self._command = (*command, str(period))
        self._sampling: Sampling | None = None
        self._began = 0.0
        self._ended: float | None = None

    def start(self) -> None:
        """Begin. Returns with the first sample, or once it is clear that there will be none."""
        if self._sampling is not None and self._ended is None:
            raise ValueError("the watch runs already; stop it first")
        sampling = self._sampling = Sampling(self._command)
        sampling.wait(lambda: bool(sampling.samples), _FIRST_LOOK)
        self._began, self._ended = time.monotonic(), None

    def stop(self) -> Watched:
        """End, with what was seen since `start`. A second call gives the same again."""
        sampling = self._started()
        if self._ended is None:
            self._ended = time.monotonic()
            sampling.end()
        return self.between(self._began, self._ended)

    def between(self, began: float, ended: float) -> Watched:
        """What was seen in an interval of the past, while the watch goes on or after it.

        Waits for the sample that follows the interval, at most a little over one period.
        """
        sampling = self._started()
        if self._ended is None:
            follows = 2 * self.period + 1
            sampling.wait(lambda: any(s.at >= ended for s in sampling.samples[-1:]), follows)
        missing = (*([sampling.fault] if sampling.fault else []), *sampling.missing)
        return summarise(sampling.samples, began, ended, missing)

    def energy(self, began: float, ended: float) -> Energy:
        """Energy of an interval of the past; see `between`."""
        return self.between(began, ended).energy

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _started(self) -> Sampling:
        if self._sampling is None:
            raise ValueError("the watch was not started; call start() first")
        return self._sampling


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
    busy, stolen = _shares(samples, began, ended)
    return Watched(
        seconds=max(0.0, ended - began),
        samples=len(inside),
        celsius=_spans([sample.celsius for sample in inside]),
        mhz=_spans([sample.mhz for sample in inside]),
        watts=_spans([sample.watts for sample in inside]),
        throttled=_throttled(samples, inside, began, ended),
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


def _ends(
    samples: Sequence[Sample], began: float, ended: float
) -> tuple[Sample | None, Sample | None]:
    """The last sample before the interval and the first after it: nothing within goes unseen."""
    before = [sample for sample in samples if sample.at <= began]
    after = [sample for sample in samples if sample.at >= ended]
    first = before[-1] if before else next(iter(samples), None)
    return first, after[0] if after else next(reversed(samples), None)


def _throttled(
    samples: Sequence[Sample], inside: Sequence[Sample], began: float, ended: float
) -> tuple[str, ...]:
    first, last = _ends(samples, began, ended)
    events = []
    if first is not None and last is not None:
        for name, count in last.counts.items():
            more = count - first.counts.get(name, count)
            events += [f"{name} ({more} times)"] if more > 0 else []
    limits = dict.fromkeys(limit for sample in inside for limit in sample.limits)
    return (*events, *limits)


def _shares(
    samples: Sequence[Sample], began: float, ended: float
) -> tuple[float | None, float | None]:
    first, last = _ends(samples, began, ended)
    if first is None or last is None:
        return None, None
    pairs = [(getattr(last, key), getattr(first, key)) for key in ("busy", "stolen", "idle")]
    if any(value is None for pair in pairs for value in pair):
        return None, None
    busy, stolen, idle = (max(0.0, late - early) for late, early in pairs)
    total = busy + stolen + idle
    return (busy / total, stolen / total) if total > 0 else (None, None)


class Sampling:
    """What a sampler has written so far. It writes to a file, so that nobody has to keep up."""

    def __init__(self, command: Sequence[str]) -> None:
        self.missing: tuple[str, ...] = ()
        self.samples: list[Sample] = []
        self.fault = ""
        """Why there are no samples, or no more."""
        self._folder = Path(tempfile.mkdtemp(prefix="ifmmin-watch-"))
        self._read = 0
        self._process = self._start(command)

    def update(self) -> None:
        """Read what is new."""
        try:
            with (self._folder / "samples").open("rb") as file:
                file.seek(self._read)
                lines, size = read_lines(file.read())
        except (OSError, msgspec.DecodeError) as error:
            self.fault = self.fault or f"the samples cannot be read: {error}"
            return
        self._read += size
        for line in lines:
            if isinstance(line, Opening):
                self.missing = line.missing
            else:
                self.samples.append(line)

    def wait(self, there: Callable[[], bool], patience: float) -> None:
        """Read on until it is there, `patience` seconds have passed, or the sampler has ended."""
        until = time.monotonic() + patience
        while True:
            ended = self._process is None or self._process.poll() is not None
            self.update()
            if there() or ended or time.monotonic() > until:
                return
            time.sleep(_PAUSE)

    def end(self) -> None:
        """Ask for a last sample, and end the process."""
        process, self._process = self._process, None
        if process is not None:
            early = process.poll() is not None
            try:
                process.communicate(timeout=_LAST_LOOK)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if early or process.returncode:
                complaint = self._complaint(process.returncode)
                self.fault = self.fault or f"the sampler ended early: {complaint}"
        self.update()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes] | None:
        samples, errors = self._folder / "samples", self._folder / "errors"
        try:
            with samples.open("wb") as output, errors.open("wb") as complaints:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=complaints,
                    # numpy's threads would only be in the way of what is measured.
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    # Ctrl-C is the benchmark's: this ends by itself when its input does.
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            self.fault = f"the sampler does not start: {error}"
            return None

    def _complaint(self, code: int) -> str:
        """The last line that it wrote on standard error, or how it ended."""
        lines = (self._folder / "errors").read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"code {code}")


class Opening(msgspec.Struct, frozen=True, kw_only=True, tag="opening"):
    """The first line: what this machine does not tell."""

    missing: tuple[str, ...]
    """Sensors that are not available, each with the reason."""


_DECODER = msgspec.json.Decoder(Opening | Sample)


def write_line(line: Opening | Sample) -> bytes:
    """A line of the file."""
    return msgspec.json.encode(line) + b"\n"


def read_lines(content: bytes) -> tuple[list[Opening | Sample], int]:
    """The whole lines of a part of the file, and how many bytes they are.

    The last line may still be in the writing.
    """
    end = content.rfind(b"\n") + 1
    return [_DECODER.decode(line) for line in content[:end].splitlines()], end


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
        began, readings = time.monotonic(), read_state(self._machine)
        for probe in self._probes:
            readings.update(probe.read())
        spent = psutil.cpu_times()
        return Sample(
            # Reading takes a while on a slow bus: its middle is the fairest moment.
            at=(began + time.monotonic()) / 2,
            joules=readings.joules,
            watts=readings.watts,
            celsius=readings.celsius,
            mhz=readings.mhz,
            counts=readings.counts,
            limits=tuple(sorted(readings.limits)),
            busy=spent.user + spent.nice + spent.system + spent.irq + spent.softirq,
            stolen=spent.steal,
            idle=spent.idle + spent.iowait,
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
