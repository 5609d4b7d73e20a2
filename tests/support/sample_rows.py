"""A made-up report of a whole run, and its rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.benchmarks.device.energy import Energy
from ifmmin.benchmarks.device.machine import Cache, DeviceRecord, Processor, Software
from ifmmin.benchmarks.device.monitor import Span, Watched
from ifmmin.benchmarks.record import (
    CONTROL,
    OURS,
    Accuracy,
    BundleRecord,
    Phase,
    Report,
    Row,
    measured_noise,
)
from ifmmin.benchmarks.roofline.probe import Rates, Reading
from ifmmin.runtime.doctor.facts import Memory, Python, System, Temperature

FRAMES = {"a": 45, "v": 50, "t": 22}
SPECIALISED = {
    "a": 354e-6, "v": 427e-6, "t": 680e-6, "a_v": 633e-6, "a_t": 893e-6, "v_t": 955e-6,
    "a_v_t": 1224e-6,
}  # fmt: skip
MONOLITH, EAGER = 1190e-6, 5150e-6
UA = {"a": 0.630, "v": 0.585, "t": 0.664, "a_v": 0.688, "a_t": 0.731, "v_t": 0.702, "a_v_t": 0.748}


@dataclass
class Machine:
    """What chance and the machine do to times."""

    jitter: tuple[float, float] = (0.03, 0.08)
    """Standard deviation of the logarithm of one sample, drawn per row."""
    outliers: float = 0.01
    """Share of samples that take 1.5 to 6 times as long."""
    wander: float = 0.02
    """Slow change within a group and between groups."""
    session: float = 0.006
    """Standard deviation of a session's luck."""
    rounds: int = 200
    rng: np.random.Generator = field(default_factory=partial(np.random.default_rng, 0))

    def group(self, rounds: int) -> NDArray[np.float64]:
        """What all contenders of a group share, per round."""
        phase, turns = self.rng.uniform(0, 2 * math.pi), self.rng.uniform(0.3, 2.0)
        wave = np.sin(phase + turns * np.linspace(0, 2 * math.pi, rounds))
        level = self.rng.normal(0, 0.5)
        return np.exp(self.wander * (level + 0.5 * wave))

    def samples(self, middle: float, shared: NDArray[np.float64]) -> tuple[float, ...]:
        """Times around `middle` in the rounds of a group."""
        jitter = self.rng.uniform(*self.jitter)
        luck = math.exp(self.rng.normal(0, self.session))
        drawn = middle * luck * shared * np.exp(self.rng.normal(0, jitter, len(shared)))
        late = self.rng.random(len(shared)) < self.outliers
        drawn[late] *= self.rng.uniform(1.5, 6.0, int(late.sum()))
        return tuple(float(sample) for sample in drawn)


ORT = {"backend": "onnxruntime-cpu", "precision": "fp32"}


def a_row(contender: str, *samples: float, **more: Any) -> Row:
    """A row of latency of pattern a, unless told otherwise."""
    fields: dict[str, Any] = {"scenario": "latency", "pattern": "a", "precision": "fp32"}
    return Row(contender=contender, samples=samples, **(fields | more))


def _lengths(pattern: str, **more: int) -> dict[str, int]:
    return {letter: more.get(letter, FRAMES[letter]) for letter in pattern.split("_")}


def _accuracy(pattern: str, precision: str) -> Accuracy:
    lost = {"fp32": 0.0, "int8": 0.006}[precision]
    ua = UA[pattern] - lost
    return Accuracy(wa=ua - 0.004, ua=ua, ece=0.031 + lost, count=1241)


def latency(machine: Machine) -> Iterator[Row]:
    """One utterance of ordinary length: precisions, backends, threads, controls and peers."""
    for pattern, base in SPECIALISED.items():
        for threads in (1, 2):
            shared = machine.group(machine.rounds)
            speed = 1.0 if threads == 1 else 1.05 if pattern == "a" else 0.8
            condition = {"pattern": pattern, "lengths": _lengths(pattern), "threads": threads}
            share = dict.fromkeys(_lengths(pattern), 0.7 / len(_lengths(pattern)))
            for backend, precision, factor in OUR_WAYS:
                whole: dict[str, Any] = {
                    **condition, "backend": backend, "precision": precision,
                    "accuracy": _accuracy(pattern, precision),
                }  # fmt: skip
                middle, split = base * factor, {**share, "head": 0.2, "overhead": 0.1}
                drawn = machine.samples(middle * speed, shared)
                yield a_row(OURS, *drawn, bound=0.62 * middle, split=split, **whole)
                if backend == "onnxruntime-cpu" and threads == 1:
                    yield a_row(CONTROL, *machine.samples(middle, shared), **whole)
            for name, backend, precision, middle in PEERS:
                yield a_row(
                    name, *machine.samples(middle * speed, shared), backend=backend,
                    precision=precision, accuracy=_accuracy(pattern, precision), **condition,
                )  # fmt: skip
    yield a_row("compile", precision="", note="no C++ compiler was found here")


OUR_WAYS = (
    ("onnxruntime-cpu", "fp32", 1.0), ("onnxruntime-cpu", "int8", 0.55), ("openvino", "fp32", 0.92),
)  # fmt: skip
PEERS = (
    ("monolith", "onnxruntime-cpu", "fp32", MONOLITH),
    ("openvino", "openvino", "fp32", 0.75 * MONOLITH),
    ("eager", "torch", "fp32", EAGER),
)


def length(machine: Machine) -> Iterator[Row]:
    """Time against the number of acoustic frames."""
    for pattern in ("a", "a_v_t"):
        for frames in (25, 50, 100, 200, 400, 800):
            shared = machine.group(machine.rounds)
            more, ours = 3.0e-6 * (frames - 45), SPECIALISED[pattern]
            for name, base in ((OURS, ours), (CONTROL, ours), ("monolith", MONOLITH)):
                yield a_row(
                    name, *machine.samples(base + more, shared), **ORT, scenario="length",
                    pattern=pattern, lengths=_lengths(pattern, a=frames),
                    bound=0.6 * (base + more) if name == OURS else None,
                )  # fmt: skip


def throughput(machine: Machine) -> Iterator[Row]:
    """Utterances a second by batch."""
    for batch, ours, peer in ((1, 781, 770), (8, 1440, 980), (32, 1596, 1020), (128, 1634, 1031)):
        shared = machine.group(40)
        eager = 402.0 * batch / (batch + 1.06)
        for name, rate in ((OURS, ours), (CONTROL, ours), ("monolith", peer), ("eager", eager)):
            yield a_row(
                name, *(1.0 / s for s in machine.samples(1.0 / rate, shared)), batch=batch,
                scenario="throughput", pattern="a_v_t", lengths=FRAMES, unit="1/s",
                backend="torch" if name == "eager" else "onnxruntime-cpu",
                bound=2480.0 if name == OURS else None,
            )  # fmt: skip


def stream(machine: Machine) -> Iterator[Row]:
    """An update of a stream after a past of some length, beside the whole once more."""
    for pattern, update in (("a", 211e-6), ("a_v_t", 269e-6)):
        for past in (50, 200, 800, 3200):
            shared = machine.group(machine.rounds)
            whole = SPECIALISED[pattern] + 3e-6 * past
            for name, middle in ((OURS, update), (CONTROL, update), ("whole again", whole)):
                yield a_row(
                    name, *machine.samples(middle, shared), **ORT, scenario="stream",
                    pattern=pattern, lengths=_lengths(pattern, a=past),
                )  # fmt: skip


def _ours(machine: Machine, rounds: int, middle: float, scenario: str, **more: Any) -> Row:
    drawn = machine.samples(middle, machine.group(rounds))
    lengths = _lengths("a_t")
    return a_row(OURS, *drawn, **ORT, scenario=scenario, pattern="a_t", lengths=lengths, **more)


def streams(machine: Machine) -> Iterator[Row]:
    """Updates while several streams are served."""
    for count in (1, 4, 16):
        middle = 240e-6 * (1 + 0.03 * count)
        yield _ours(machine, machine.rounds, middle, "streams", streams=count)


def idle(machine: Machine) -> Iterator[Row]:
    """The first call after a pause."""
    for pause, factor in (("after 0.1 s", 1.2), ("after 1 s", 1.7), ("after 10 s", 2.4)):
        yield _ours(machine, 30, SPECIALISED["a_t"] * factor, "idle", part=pause)


def signal(machine: Machine) -> Iterator[Row]:
    """From a wav to its emotion."""
    shared = machine.group(machine.rounds)
    for part, seconds in (("read", 1e-4), ("features", 9e-3), ("network", 3e-4), ("all", 9.5e-3)):
        common: dict[str, Any] = {"scenario": "signal", "part": part, "pattern": "a", **ORT}
        yield a_row(OURS, *machine.samples(seconds, shared), **common)
        if part == "features":
            yield a_row("opensmile", *machine.samples(87e-3, shared), **common)


START = ("import", "load", "build", "first answer")
COLD = {
    OURS: (0.061, 0.014, 0.019, 0.002), CONTROL: (0.061, 0.014, 0.019, 0.002),
    "monolith": (0.058, 0.022, 0.049, 0.003), "openvino": (0.071, 0.030, 0.142, 0.004),
    "eager": (0.742, 0.064, 0.021, 0.014),
}  # fmt: skip
BACKENDS = {"openvino": "openvino", "eager": "torch"}


def cold_start(machine: Machine) -> Iterator[Row]:
    """A fresh process up to its first answer."""
    shared = {part: machine.group(15) for part in (*START, "")}
    for name, parts in COLD.items():
        for part, seconds in zip((*START, ""), (*parts, sum(parts)), strict=True):
            yield a_row(
                name, *machine.samples(seconds, shared[part]), scenario="cold-start", part=part,
                backend=BACKENDS.get(name, "onnxruntime-cpu"), lengths={"a": 50},
            )  # fmt: skip


def memory(machine: Machine) -> Iterator[Row]:
    """Resident bytes of a process."""
    common = {"scenario": "memory", "unit": "bytes"}
    for name, stage, size in (
        (OURS, "one pattern", 71e6), (OURS, "all patterns", 83e6),
        ("monolith", "one pattern", 88e6), ("eager", "one pattern", 512e6),
    ):  # fmt: skip
        for measure, share in (("peak", 1.02), ("RSS", 1.0), ("PSS", 0.8), ("USS", 0.7)):
            yield a_row(
                name, *(float(round(share * size + machine.rng.normal(0, 2e5))) for _ in range(5)),
                pattern="a_t" if stage == "one pattern" else "", part=f"{stage}, {measure}",
                backend=BACKENDS.get(name, "onnxruntime-cpu"), **common,
            )  # fmt: skip
    for name, size in ((OURS, 2.9e6), ("monolith", 18.4e6)):
        yield a_row(name, size, **ORT, pattern="a_t", part="bundle", **common)


def load(machine: Machine) -> Iterator[Row]:
    """MLPerf's scenarios, and the energy of an answer."""
    common: dict[str, Any] = {
        **ORT, "pattern": "a_v_t", "lengths": FRAMES,
        "note": "own generator, short: no usable MLPerf run",
    }  # fmt: skip
    shared = machine.group(machine.rounds)
    yield a_row(OURS, *machine.samples(1.26e-3, shared), scenario="single-stream", **common)
    yield a_row(OURS, *machine.samples(8.4e-3, shared), scenario="multi-stream", batch=8, **common)
    yield a_row(OURS, 1588.0, scenario="offline", unit="1/s", **common)
    yield a_row(OURS, 612.0, scenario="server", unit="1/s", **common)
    yield a_row(OURS, 0.0123, 0.0119, 0.0125, part="energy", unit="J", **common)


SCENARIOS: dict[str, Callable[[Machine], Iterator[Row]]] = {
    "latency": latency, "length": length, "throughput": throughput, "stream": stream,
    "streams": streams, "signal": signal, "cold-start": cold_start, "idle": idle,
    "memory": memory, "load": load,
}  # fmt: skip


def sample_report(
    machine: Machine | None = None, *, scenarios: Iterable[str] = SCENARIOS, **more: Any
) -> Report:
    """A report of some scenarios. more: fields of Report."""
    machine = machine or Machine()
    rows = tuple(row for name in scenarios for row in SCENARIOS[name](machine))
    fields: dict[str, Any] = {
        "title": "IF-MMIN at the edge", "started": "2026-03-01T09:30:00Z", "seconds": 512.4,
        "revision": "8dd0c0a1",
        "command": "ifmmin-bench bundle --rounds 200 --json report.json",
        "settings": {
            "rounds": machine.rounds, "warm_up": 20, "seed": 0,
            "peers": ["monolith", "openvino", "eager"],
        },
        "device_before": sample_device(48.0), "device_after": sample_device(61.5),
        "watched": sample_watched(), "rates": (sample_rates(1), sample_rates(2)),
        "phases": (
            Phase(name="latency", seconds=98.2, groups=14, cut=3,
                  rounds=(machine.rounds // 2, machine.rounds)),
            Phase(name="making ready", seconds=71.4),
            Phase(name="idle", seconds=52.0, groups=2, rounds=(50, 50)),
        ),
        "bundle": BundleRecord(
            name="bundle", manifest_sha256="0f" * 32, checkpoint_sha256="a9" * 32,
            model="if-mmin", labels=("angry", "happy", "neutral", "sad"),
            graphs={f"{pattern}.latency.fp32.onnx": int(9e5 + 4e9 * seconds)
                    for pattern, seconds in SPECIALISED.items()},
        ),
        "noise": measured_noise(rows), "rows": rows,
    }  # fmt: skip
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
        threads=threads, float32=48.5e9 * threads, int8=89e9 * threads, int8_kernel="AVX2",
        busy=0.998, probe="C, by cc",
        read=(
            Reading(size=32 << 10, rate=185e9 * threads, busy=0.998),
            Reading(size=256 << 10, rate=92e9 * threads, busy=0.97),
            Reading(size=128 << 20, rate=16.5e9, busy=0.999),
        ),
    )  # fmt: skip


def sample_device(celsius: float) -> DeviceRecord:
    """A device as the record has it."""
    return DeviceRecord(
        taken="2026-03-01T09:30:00Z",
        processor=Processor(
            model="AMD EPYC", logical=2, physical=2, usable=2, flags=("avx", "fma", "avx2"),
            caches=(Cache(name="L2", size=512 << 10, instances=2),), hypervisor="kvm", load=0.2,
        ),
        memory=Memory(total=24 << 30, available=20 << 30),
        temperatures=(Temperature(zone="package", celsius=celsius),),
        software=Software(
            python=Python(version="3.11.7"),
            system=System(name="Debian GNU/Linux 12", machine="x86_64", kernel="6.18"),
            packages={"ifmmin": "0.1.0", "numpy": "2.4.6", "onnxruntime": "1.32.0"},
        ),
    )  # fmt: skip
