"""What a report says of the device. Every field has a value for "not found".

Part of the record of a run, and versioned with it (`ifmmin.benchmarks.record.SCHEMA`): fields may
be added; removing one, or a change of meaning, raises that number. What the doctor knows already is
in its own structs, see `ifmmin.runtime.doctor.facts`.
"""

from __future__ import annotations

import msgspec

from ifmmin.runtime.doctor.facts import (
    Jetson,
    Memory,
    OnnxRuntime,
    Python,
    System,
    Temperature,
)


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
    """One NVIDIA GPU, as nvidia-smi tells."""

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
    """What held the clocks down at that moment; see `ifmmin.benchmarks.device.smi.REASONS`."""


class Nvidia(msgspec.Struct, frozen=True, kw_only=True):
    """GPUs and their driver."""

    driver: str = ""
    cuda: str = ""
    """Newest CUDA that the driver speaks."""
    error: str = ""
    """Why the driver does not start."""
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
