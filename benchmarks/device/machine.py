"""Machine as a benchmark sees it: files and tools below a root, and what is known of it.

`DeviceRecord` is part of the record of a run, and versioned with it
(`ifmmin.benchmarks.record.SCHEMA`): fields may be added; removing one, or a change of meaning,
raises that number. Every field has a value for "not found". What the doctor knows already is in its
own structs, see `ifmmin.runtime.doctor.facts`.
"""

from __future__ import annotations

import glob
import re
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import IO

import msgspec

from ifmmin.runtime.doctor.facts import Jetson, Memory, OnnxRuntime, Python, System, Temperature
from ifmmin.runtime.doctor.probes import Host

_GOODBYE = 2.0
"""Seconds that a followed tool gets to end."""


class Machine(Host):
    """Files, tools and packages of this machine, each of which may be absent.

    root: where its files lie; elsewhere in tests, and in a container that has the host's `/sys`
    mounted aside.
    """

    def __init__(self, root: str = "") -> None:
        self.root = root.rstrip("/")

    def content(self, path: str) -> bytes:
        """The bytes of a file."""
        return super().content(self.root + path)

    def find(self, pattern: str) -> list[str]:
        """The paths that fit a pattern of the shell; of several with a number, in its order."""
        found = super().find(glob.escape(self.root) + pattern)
        return in_order(path[len(self.root) :] for path in found)

    def resolve(self, path: str) -> str:
        """The file at the end of the links."""
        return super().resolve(self.root + path).removeprefix(self.root)

    def follow(self, *command: str) -> Followed | None:
        """Start a tool that goes on printing; None where there is no such tool."""
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**self.environ, "LC_ALL": "C"},
            )
        except (OSError, ValueError):
            return None
        return Followed(process)


class Followed:
    """A tool that prints a line every now and then; the newest is kept."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._newest: tuple[float, str] | None = None
        assert process.stdout is not None
        reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        reader.start()

    def wait(self, patience: float) -> bool:
        """Whether a line came within `patience` seconds."""
        until = time.monotonic() + patience
        while self._newest is None and time.monotonic() < until and self._process.poll() is None:
            time.sleep(0.01)
        return self._newest is not None

    def newest(self, oldest: float) -> str:
        """The newest line; empty after `oldest` seconds without one: the tool hangs or is gone."""
        came, line = self._newest or (0.0, "")
        return line if time.monotonic() - came <= oldest else ""

    def close(self) -> None:
        """End the tool."""
        self._process.terminate()
        try:
            self._process.wait(_GOODBYE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                self._newest = time.monotonic(), line.decode(errors="replace").strip()


def in_order(names: Iterable[str]) -> list[str]:
    """Sorted, `cpu2` before `cpu10`."""

    def key(name: str) -> list[tuple[int, str]]:
        parts = re.findall(r"[0-9]+|[^0-9]+", name)
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    return sorted(names, key=key)


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    """One level of the processor's caches."""

    name: str
    """Such as `L1d`, `L1i`, `L2`."""
    size: int
    """Bytes of one of them."""
    instances: int
    """How many of that size there are."""


class Frequency(msgspec.Struct, frozen=True, kw_only=True):
    """One clock that is set for several cores at once, or that of a GPU or of memory. In MHz."""

    name: str
    """The cores, such as `0,1,2,3`, or the device, such as `17000000.gpu`."""
    governor: str = ""
    driver: str = ""
    minimum: int | None = None
    """The least that the governor may choose now; a pinned clock has it equal to the most."""
    maximum: int | None = None
    """The most that the governor may choose now."""
    hardware_maximum: int | None = None
    """The most that the hardware can do, boost included."""
    current: int | None = None


class Processor(msgspec.Struct, frozen=True, kw_only=True):
    """The processor and what the kernel lets a process have of it."""

    model: str = ""
    kinds: dict[str, int] = {}
    """Cores by design, on Arm: `{"Cortex-A78AE": 8}`, or two entries for big and little cores."""
    flags: tuple[str, ...] = ()
    """Instruction sets that matter to the kernels, in the kernel's words: `asimd` is Neon."""
    logical: int = 0
    """CPUs that the kernel counts, threads of one core included."""
    physical: int | None = None
    """Cores."""
    usable: int = 0
    """Logical CPUs that this process may run on."""
    quota: float | None = None
    """CPUs' worth of time that a control group allows; None is no limit."""
    caches: tuple[Cache, ...] = ()
    frequencies: tuple[Frequency, ...] = ()
    """Empty where the kernel has no hand in it, as in most virtual machines."""
    boost: bool | None = None
    """Whether clocks above the nominal one are allowed."""
    hypervisor: str = ""
    """Such as `kvm`; empty on bare metal."""
    clock_source: str = ""
    """What the kernel takes the time from; `hpet` and `acpi_pm` are slow to read."""
    load: float | None = None
    """Runnable processes, averaged over the minute before the record: other work disturbs."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One NVIDIA GPU, as NVML tells."""

    name: str = ""
    compute_capability: str = ""
    """Such as `8.7`: the SM architecture."""
    memory: int = 0
    """Bytes; 0 where it is the machine's own, as on a Jetson."""
    memory_used: int | None = None
    celsius: int | None = None
    sm_mhz: int | None = None
    sm_mhz_maximum: int | None = None
    memory_mhz: int | None = None
    memory_mhz_maximum: int | None = None
    watts: float | None = None
    watts_limit: float | None = None
    watts_default: float | None = None
    """The limit that the board came with."""
    state: str = ""
    """Performance state, `P0` is the fastest."""
    persistent: bool | None = None
    """The driver stays loaded between processes."""
    mig: str = ""
    """Whether it is cut into instances: `Enabled`, `Disabled`, empty where it cannot be."""
    pcie: str = ""
    """Such as `gen 4 x16`."""
    limits: tuple[str, ...] = ()
    """What held the clocks down at that moment; see `ifmmin.benchmarks.device.gpu.REASONS`."""


class Nvidia(msgspec.Struct, frozen=True, kw_only=True):
    """GPUs and their driver."""

    driver: str = ""
    cuda: str = ""
    """Newest CUDA that the driver speaks."""
    error: str = ""
    """Why the driver does not start, or tells nothing."""
    gpus: tuple[Gpu, ...] = ()


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """A Jetson and the state of its clocks."""

    module: Jetson
    """Model, SoC, Jetson Linux, JetPack, power mode."""
    frequencies: tuple[Frequency, ...] = ()
    """Of GPU and memory."""
    pinned: bool | None = None
    """Whether clocks stand still as after `jetson_clocks`; None where nothing could be read."""


class Cooling(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the kernel slows down against heat."""

    name: str
    state: int
    """0 is free."""
    maximum: int


class Throttling(msgspec.Struct, frozen=True, kw_only=True):
    """What held the machine back. Counters run since boot: the difference of two records counts."""

    core_events: int | None = None
    """Times that a core slowed itself down against heat, summed over cores. Intel only."""
    package_events: int | None = None
    """The same of the whole package; the largest of several sockets."""
    quota_events: int | None = None
    """Periods in which the control group had used up its CPU quota."""
    over_current: dict[str, int] = {}
    """Jetson: `oc1` under-voltage, `oc2` average, `oc3` instantaneous over-current."""
    cooling: tuple[Cooling, ...] = ()
    """Those that are engaged; fans are none."""
    watched: tuple[str, ...] = ()
    """What could be read of all this; empty means that throttling would go unseen."""


class PowerSource(msgspec.Struct, frozen=True, kw_only=True):
    """A sensor of energy or power that this process may read."""

    name: str
    """`rapl`, `ina`, `tegrastats`, `nvidia`."""
    rails: tuple[str, ...]
    counts: bool
    """It counts energy by itself; otherwise power is sampled and added up."""


class Software(msgspec.Struct, frozen=True, kw_only=True):
    """Versions of what runs graphs, and settings that change their speed."""

    python: Python = Python()
    system: System = System()
    packages: dict[str, str] = {}
    libraries: dict[str, str] = {}
    """Shared libraries of CUDA and TensorRT, by name."""
    onnxruntime: OnnxRuntime = OnnxRuntime()
    settings: dict[str, str] = {}
    """Environment variables such as OMP_NUM_THREADS, where they are set."""


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """The commit of the code, by git."""

    commit: str
    changed: bool
    """Files that git knows differ from the commit."""


class DeviceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The device at one moment."""

    taken: str = ""
    """ISO 8601 in UTC."""
    processor: Processor = Processor()
    memory: Memory = Memory()
    nvidia: Nvidia = Nvidia()
    jetson: Board | None = None
    temperatures: tuple[Temperature, ...] = ()
    throttling: Throttling = Throttling()
    power: tuple[PowerSource, ...] = ()
    no_power: tuple[str, ...] = ()
    """Sensors of power that are not available, each with the reason."""
    software: Software = Software()
    revision: Revision | None = None
    """None outside of a checkout."""
    failed: tuple[str, ...] = ()
    """Looks that went wrong: a fault of ours, worth a report."""


class Readings(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Values by name. What cannot be read is not in it."""

    joules: dict[str, float] = {}
    """Energy since the probe began, by rail: from sensors that count it."""
    watts: dict[str, float] = {}
    """Power at this moment, by rail."""
    celsius: dict[str, float] = {}
    mhz: dict[str, int] = {}
    counts: dict[str, int] = {}
    """Events since boot that each held the machine back."""
    limits: set[str] = set()
    """What holds the machine back at this moment."""

    def update(self, other: Readings) -> None:
        """Take the values of another probe in."""
        for name in Readings.__struct_fields__:
            getattr(self, name).update(getattr(other, name))


class Probe(ABC):
    """Something that can be looked at again and again."""

    @abstractmethod
    def read(self) -> Readings:
        """Look once. Never raises for what is not there."""

    @property
    def rails(self) -> tuple[str, ...]:
        """Names of what it tells energy or power of."""
        found = self.read()
        return tuple(dict.fromkeys((*found.joules, *found.watts)))

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of tools and libraries."""


class ProbeUnavailable(Exception):  # noqa: N818 - not an error: most machines lack most sensors
    """A sensor that cannot be read here; the message is the reason, for the report."""
