"""A device record in words: one line a thing, for the head of a report."""

from __future__ import annotations

from collections.abc import Iterator

from .machine import Board, Cache, DeviceRecord, Frequency, Gpu, Processor

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
Rows = Iterator[tuple[str, str]]
_COUNTS = {True: "counts energy", False: "power is sampled"}


def describe(record: DeviceRecord) -> list[tuple[str, str]]:
    """Names and texts. What matters and cannot be read is `not available`, with the reason."""
    parts = (_hardware, _conditions, _software)
    return [(name, text) for part in parts for name, text in part(record) if text]


def _hardware(record: DeviceRecord) -> Rows:
    processor, nvidia = record.processor, record.nvidia
    yield "processor", _processor(processor)
    yield "instructions", " ".join(processor.flags)
    yield "caches", _join(*map(_cache, processor.caches))
    yield "memory", _gibibytes(record.memory.total)
    for index, gpu in enumerate(nvidia.gpus):
        yield f"gpu {index}" if len(nvidia.gpus) > 1 else "gpu", _gpu(gpu)
    yield "driver", _join(nvidia.driver, _with("speaks CUDA", nvidia.cuda), nvidia.error)
    if record.jetson:
        yield "jetson", _jetson(record.jetson)


def _conditions(record: DeviceRecord) -> Rows:
    processor = record.processor
    unset = "not available: the kernel does not set it, as in most virtual machines"
    boost = {True: "boost allowed", False: "boost off", None: ""}[processor.boost]
    limits = [_limits(clock) for clock in processor.frequencies]
    numbers = {text: limits.count(text) for text in limits}
    clocks = "; ".join(f"{n} x {text}" if n > 1 else text for text, n in numbers.items())
    yield "frequency", _join(clocks or unset, boost)
    if record.jetson:
        others = [(clock, clock.current or "unknown") for clock in record.jetson.frequencies]
        yield "other clocks", _join(*(f"{c.name} {now} MHz ({_limits(c)})" for c, now in others))
    hottest = max(record.temperatures, key=lambda zone: zone.celsius, default=None)
    heat = "not available: the kernel shows no sensor"
    if hottest:
        heat = f"{hottest.celsius:.0f} degrees Celsius in the hottest zone ({hottest.zone})"
    yield "temperature", heat
    yield "throttling", _throttling(record)
    sources = [
        f"{source.name} ({_join(_COUNTS[source.counts], *source.rails)})" for source in record.power
    ]
    why = "; ".join(record.no_power) or "no sensor"
    yield "energy", "; ".join(sources) or f"not available: {why}"
    load = "" if processor.load is None else f"load {processor.load:.2f} over the minute before"
    free = _gibibytes(record.memory.available)
    yield "other work", _join(load, f"{free} of memory free" if free else "")
    yield "clock source", processor.clock_source


def _software(record: DeviceRecord) -> Rows:
    software, system, revision = record.software, record.software.system, record.revision
    boxed = "in a container" if system.container else ""
    yield "system", _join(system.name, system.machine, system.kernel, system.libc, boxed)
    versions = [f"{name} {version}" for name, version in software.packages.items()]
    yield "software", _join(f"Python {software.python.version or 'unknown'}", *versions)
    built = software.onnxruntime
    cuda, compiled = _with("for CUDA", built.cuda), ", ".join(built.providers)
    name = f"{built.package} {built.version}".strip()
    yield "ONNX Runtime", _join(name, cuda, _with("compiled in:", compiled), built.error)
    yield "libraries", _join(*(f"{name} ({v})" for name, v in software.libraries.items()))
    yield "settings", " ".join(f"{name}={value}" for name, value in software.settings.items())
    changed = ", with changes that are not committed" if revision and revision.changed else ""
    outside = "not available: it does not run from a checkout"
    yield "revision", f"{revision.commit[:12]}{changed}" if revision else outside
    yield "looks that failed", "; ".join(record.failed)


def _throttling(record: DeviceRecord) -> str:
    throttling, gpus = record.throttling, record.nvidia.gpus
    watched = [*throttling.watched, *(["limits of the GPU"] if gpus else [])]
    if not watched:
        return "not available: nothing on this machine tells of it"
    counts = {
        "by cores": throttling.core_events,
        "by the package": throttling.package_events,
        "by a CPU quota": throttling.quota_events,
        **{f"by over-current {name}": n for name, n in throttling.over_current.items()},
    }
    events = [f"{count} times {name} since boot" for name, count in counts.items() if count]
    engaged = [f"{device.name} {device.state} of {device.maximum}" for device in throttling.cooling]
    limits = [f"GPU {limit}" for gpu in gpus for limit in gpu.limits]
    seen = _join(*events, *engaged, *limits) or "none"
    return f"{seen} (can be seen here: {', '.join(watched)})"


def _join(*parts: str) -> str:
    """With commas; what is empty is left out."""
    return ", ".join(part for part in parts if part)


def _with(word: str, value: object) -> str:
    """The word before a value; empty where the value is."""
    return f"{word} {value}" if value else ""


def _gibibytes(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size else ""


def _processor(found: Processor) -> str:
    return _join(
        found.model or "model not available",
        *(f"{count} {name}" for name, count in found.kinds.items()),
        f"{found.physical} cores" if found.physical else "",
        f"{found.logical} logical CPUs",
        f"{found.usable} usable" if found.usable < found.logical else "",
        f"a quota of {found.quota:g} CPUs" if found.quota is not None else "",
        f"virtual machine ({found.hypervisor})" if found.hypervisor else "",
    )


def _cache(found: Cache) -> str:
    """Such as `L2 512 KiB x 8`."""
    whole = found.size % _MIB == 0
    size = f"{found.size // _MIB} MiB" if whole else f"{found.size // _KIB} KiB"
    return f"{found.name} {size}" + (f" x {found.instances}" if found.instances > 1 else "")


def _gpu(found: Gpu) -> str:
    clocks = {
        "SM clock": (found.sm_mhz, found.sm_mhz_maximum),
        "memory clock": (found.memory_mhz, found.memory_mhz_maximum),
    }
    return _join(
        found.name,
        _with("compute capability", found.compute_capability),
        _gibibytes(found.memory),
        *(f"{name} {now} of {most} MHz" for name, (now, most) in clocks.items() if most),
        f"power limit {found.watts_limit:g} W" if found.watts_limit else "",
        f"{found.celsius} degrees Celsius" if found.celsius is not None else "",
        _with("MIG", found.mig.lower()),
        _with("PCIe", found.pcie),
    )


def _jetson(board: Board) -> str:
    module = board.module
    return _join(
        module.model,
        module.soc,
        _with("JetPack", module.jetpack),
        _with("Jetson Linux", module.l4t),
        f"power mode {module.power_mode or 'not available: nvpmodel does not say'}",
        {True: "clocks pinned", False: "clocks not pinned", None: ""}[board.pinned],
    )


def _limits(clock: Frequency) -> str:
    least, most = (mhz or "?" for mhz in (clock.minimum, clock.maximum))
    beyond = (clock.hardware_maximum or 0) > (clock.maximum or 0)
    cut = f"the hardware can {clock.hardware_maximum}" if beyond and clock.maximum else ""
    return _join(clock.governor, clock.driver, f"{least} to {most} MHz", cut)
