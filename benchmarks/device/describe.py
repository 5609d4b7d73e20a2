"""A device record for people: one line a thing, for the head of a report."""

from __future__ import annotations

from collections.abc import Iterator

from ifmmin.benchmarks.device import wording
from ifmmin.benchmarks.device.facts import DeviceRecord
from ifmmin.benchmarks.device.wording import gibibytes, join

Rows = Iterator[tuple[str, str]]
_SHORT = 12
"""Digits of a commit."""


def describe(record: DeviceRecord) -> list[tuple[str, str]]:
    """Names and texts. What matters and cannot be read is `not available`, with the reason."""
    parts = (_hardware, _conditions, _software)
    return [(name, text) for part in parts for name, text in part(record) if text]


def _hardware(record: DeviceRecord) -> Rows:
    processor, nvidia = record.processor, record.nvidia
    yield "processor", wording.processor(processor)
    yield "instructions", " ".join(processor.flags)
    yield "caches", join(*map(wording.cache, processor.caches))
    yield "memory", gibibytes(record.memory.total)
    for index, gpu in enumerate(nvidia.gpus):
        yield f"gpu {index}" if len(nvidia.gpus) > 1 else "gpu", wording.gpu(gpu)
    cuda = f"speaks CUDA {nvidia.cuda}" if nvidia.cuda else ""
    yield "driver", join(nvidia.driver, cuda, nvidia.error)
    if record.jetson:
        yield "jetson", wording.jetson(record.jetson)


def _conditions(record: DeviceRecord) -> Rows:
    processor = record.processor
    unset = "not available: the kernel does not set it, as in most virtual machines"
    boost = {True: "boost allowed", False: "boost off", None: ""}[processor.boost]
    yield "frequency", join(wording.clocks(processor.frequencies) or unset, boost)
    if record.jetson:
        yield "other clocks", join(*map(wording.named_clock, record.jetson.frequencies))
    yield "temperature", _temperature(record)
    yield "throttling", _throttling(record)
    yield "energy", _energy(record)
    load = "" if processor.load is None else f"load {processor.load:.2f} over the minute before"
    free = gibibytes(record.memory.available)
    yield "other work", join(load, f"{free} of memory free" if free else "")
    yield "clock source", processor.clock_source


def _software(record: DeviceRecord) -> Rows:
    software, system, revision = record.software, record.software.system, record.revision
    boxed = "in a container" if system.container else ""
    yield "system", join(system.name, system.machine, system.kernel, system.libc, boxed)
    versions = [f"{name} {version}" for name, version in software.packages.items()]
    yield "software", join(f"Python {software.python.version or 'unknown'}", *versions)
    yield "ONNX Runtime", wording.onnxruntime(software.onnxruntime)
    yield "libraries", join(*(f"{name} ({v})" for name, v in software.libraries.items()))
    yield "settings", " ".join(f"{name}={value}" for name, value in software.settings.items())
    changed = ", with changes that are not committed" if revision and revision.changed else ""
    outside = "not available: it does not run from a checkout"
    yield "revision", f"{revision.commit[:_SHORT]}{changed}" if revision else outside
    yield "looks that failed", "; ".join(record.failed)


def _temperature(record: DeviceRecord) -> str:
    if not record.temperatures:
        return "not available: the kernel shows no sensor"
    hottest = max(record.temperatures, key=lambda zone: zone.celsius)
    return f"{hottest.celsius:.0f} degrees Celsius in the hottest zone ({hottest.zone})"


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
    seen = join(*events, *engaged, *limits) or "none"
    return f"{seen} (can be seen here: {', '.join(watched)})"


def _energy(record: DeviceRecord) -> str:
    found = []
    for source in record.power:
        how = "counts energy" if source.counts else "power is sampled"
        found.append(f"{source.name} ({join(how, *source.rails)})")
    return "; ".join(found) or f"not available: {'; '.join(record.no_power) or 'no sensor'}"
