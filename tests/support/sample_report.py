"""Reports as a run on a small machine would write them, as drawn with a fixed seed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sample_rows import SCENARIOS, SPECIALISED, Machine

from ifmmin.benchmarks.device.energy import Energy
from ifmmin.benchmarks.device.machine import Cache, DeviceRecord, Processor, Software
from ifmmin.benchmarks.device.monitor import Span, Watched
from ifmmin.benchmarks.limits.probe import Rates, Reading
from ifmmin.benchmarks.record import BundleRecord, Phase, Report, measured_noise
from ifmmin.runtime.doctor.facts import Memory, Python, System, Temperature


def sample_report(
    machine: Machine | None = None,
    *,
    scenarios: Iterable[str] = SCENARIOS,
    **more: Any,
) -> Report:
    """A report of some scenarios. more: fields of Report."""
    machine = machine or Machine()
    rows = tuple(row for name in scenarios for row in SCENARIOS[name](machine))
    fields: dict[str, Any] = {
        "title": "IF-MMIN at the edge",
        "started": "2026-03-01T09:30:00Z",
        "seconds": 512.4,
        "revision": "8dd0c0a1",
        "command": "ifmmin-bench bundle --rounds 200 --json report.json",
        "settings": {
            "rounds": machine.rounds,
            "warm_up": 20,
            "seed": 0,
            "peers": ["monolith", "openvino", "eager"],
        },
        "device_before": sample_device(48.0),
        "device_after": sample_device(61.5),
        "watched": sample_watched(),
        "rates": (sample_rates(1), sample_rates(2)),
        "phases": (
            Phase(
                name="latency",
                seconds=98.2,
                groups=14,
                rounds=(machine.rounds // 2, machine.rounds),
                cut=3,
            ),
            Phase(name="making ready", seconds=71.4),
            Phase(name="idle", seconds=52.0, groups=2, rounds=(50, 50)),
        ),
        "bundle": BundleRecord(
            name="bundle",
            manifest_sha256="0f" * 32,
            checkpoint_sha256="a9" * 32,
            model="if-mmin",
            labels=("angry", "happy", "neutral", "sad"),
            graphs={
                f"{pattern}.latency.fp32.onnx": int(9e5 + 4e9 * seconds)
                for pattern, seconds in SPECIALISED.items()
            },
        ),
        "noise": measured_noise(rows),
        "rows": rows,
    }
    return Report(**(fields | more))


def sample_watched() -> Watched:
    """What a watch saw on a device without a sensor of energy."""
    return Watched(
        seconds=498.0, samples=1990, celsius={"package": Span(low=48.0, median=58.5, high=62.0)},
        mhz={"cpu": Span(low=2400.0, median=3000.0, high=3100.0)}, busy=0.62, stolen=0.004,
        energy=Energy(seconds=498.0, samples=1990, reason="the kernel shows no counters"),
        missing=("the kernel shows no counters",),
    )  # fmt: skip


def sample_rates(threads: int) -> Rates:
    """What the device does at most."""
    return Rates(
        threads=threads,
        float32=48.5e9 * threads,
        int8=89e9 * threads,
        int8_kernel="AVX2",
        busy=0.998,
        read=(
            Reading(size=32 << 10, rate=185e9 * threads, busy=0.998),
            Reading(size=256 << 10, rate=92e9 * threads, busy=0.97),
            Reading(size=128 << 20, rate=16.5e9, busy=0.999),
        ),
        probe="C, by cc",
    )


def sample_device(celsius: float) -> DeviceRecord:
    """A device as the record has it."""
    return DeviceRecord(
        taken="2026-03-01T09:30:00Z",
        processor=Processor(
            model="AMD EPYC",
            logical=2,
            physical=2,
            usable=2,
            flags=("avx", "fma", "avx2"),
            caches=(Cache(name="L2", size=512 << 10, instances=2),),
            hypervisor="kvm",
            load=0.2,
        ),
        memory=Memory(total=24 << 30, available=20 << 30),
        temperatures=(Temperature(zone="package", celsius=celsius),),
        software=Software(
            python=Python(version="3.11.7"),
            system=System(name="Debian GNU/Linux 12", machine="x86_64", kernel="6.18"),
            packages={"ifmmin": "0.1.0", "numpy": "2.4.6", "onnxruntime": "1.32.0"},
        ),
    )
