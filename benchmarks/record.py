"""Record of a benchmark run: raw samples and how they came about, its A/A control, its file.

It is kept as JSON, whose schema `ifmmin-bench --schema` prints. Raw samples are kept, so that a
reader can compute another figure than those that the report shows. The A/A control says how much
two sessions of one graph differ, which nothing but chance explains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.files import JSON_ERRORS, atomic_file, read_regular

from .device.machine import DeviceRecord
from .device.monitor import Watched
from .roofline.probe import Rates

SCHEMA = 2
"""Fields may be added within a version; removing one, or a change of meaning, makes a new one."""
OURS = "ifmmin"
CONTROL = "control"
"""The same graph in a session of its own: what differs from ours is noise, the A/A control."""
REFERENCE = "reference"
"""A fixed graph of our graphs' kind and size: it tells what the machine did between two runs."""
Scenario = Literal[
    "latency", "length", "throughput", "stream", "streams", "signal", "cold-start", "idle",
    "memory", "single-stream", "multi-stream", "offline", "server",
]  # fmt: skip
Unit = Literal["s", "bytes", "1/s", "J"]


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """How right the answers are of what was timed."""

    wa: float
    """Weighted accuracy: the share of right answers."""
    ua: float
    """Unweighted accuracy: recall, averaged over the classes."""
    ece: float
    """Expected calibration error."""
    count: int
    """Utterances it was measured on."""


class BundleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle that was measured."""

    name: str
    manifest_sha256: str
    checkpoint_sha256: str
    model: str
    labels: tuple[str, ...]
    graphs: dict[str, int] = {}
    """Bytes per graph file."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One contender under one condition."""

    scenario: Scenario
    contender: str
    """`ifmmin`, `control`, or a peer's name."""
    pattern: str = ""
    """What is present, such as `a_t`; empty where it varies or does not matter."""
    backend: str = ""
    """What ran it, ours or a peer's: `onnxruntime-cpu`, `torch`."""
    precision: str = ""
    threads: int = 1
    lengths: dict[str, int] = {}
    """Frames per modality letter; in scenario `stream`, frames that came before the update."""
    batch: int = 1
    """Utterances per call."""
    streams: int = 1
    """Streams that are served at the same time."""
    part: str = ""
    """What of the whole this is: `import`, `load`, `build`, `first answer`; empty for all of it."""
    unit: Unit = "s"
    """Of the samples: seconds, bytes and joules are better when less, rates when more."""
    samples: tuple[float, ...] = ()
    """In the order of measurement: sample i of two rows of a group is of the same round."""
    bound: float | None = None
    """What the device could do at best, in the same unit."""
    split: dict[str, float] | None = None
    """Share of the time by part of the graph."""
    accuracy: Accuracy | None = None
    placement: dict[str, Any] = {}
    """Where it ran: what the backend says of its devices and providers."""
    note: str = ""
    """What a reader must know; why it was not measured where there are no samples."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(sample) and sample >= 0 for sample in self.samples):
            raise ValueError(f"a sample of {self.subject} is negative or no number")
        if self.bound is not None and not (math.isfinite(self.bound) and self.bound > 0):
            raise ValueError(f"the bound of {self.subject} is {self.bound}; it must be above 0")
        if not self.samples and not self.note:
            raise ValueError(f"{self.subject} has no samples and no note that says why")

    @property
    def group(self) -> tuple[Any, ...]:
        """What was measured in the same rounds: the condition without who and by what."""
        lengths = tuple(sorted(self.lengths.items()))
        return (
            self.scenario, self.pattern, self.threads, lengths, self.batch, self.streams,
            self.part, self.unit,
        )  # fmt: skip

    @property
    def key(self) -> tuple[Any, ...]:
        """What finds the same row in another report."""
        return (*self.group, self.contender, self.backend, self.precision)

    @property
    def subject(self) -> str:
        """The row in words, for messages."""
        words = [self.scenario, self.contender, self.pattern, self.backend, self.precision]
        words += [f"{self.threads} threads"] if self.threads > 1 else []
        words += ["+".join(f"{n} {letter}" for letter, n in self.lengths.items())]
        words += [f"batch {self.batch}"] if self.batch > 1 else []
        words += [f"{self.streams} streams"] if self.streams > 1 else []
        return " ".join(word for word in (*words, self.part) if word)


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """How long a part of the run took, and how many rounds that left."""

    name: str
    """A scenario, or what was made ready for several."""
    seconds: float
    """Without the phases within it."""
    groups: int = 0
    """Groups of calls that took turns."""
    rounds: tuple[int, int] | None = None
    """The fewest and the most that a group had."""
    cut: int = 0
    """Groups that time ended before all of their rounds."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run of `ifmmin-bench`."""

    schema: int = SCHEMA
    title: str
    started: str
    """ISO 8601 in UTC."""
    seconds: float
    """The whole run."""
    revision: str | None
    """Of the code, by git; None outside of a checkout."""
    command: str
    settings: dict[str, Any]
    """Rounds, warm-up, seed and whatever else changes a figure."""
    device_before: DeviceRecord
    device_after: DeviceRecord
    watched: Watched | None = None
    """The device while scenarios ran; None where nothing watched."""
    rates: tuple[Rates, ...] = ()
    """What the processor does at most, by number of threads: bounds are made of it."""
    phases: tuple[Phase, ...] = ()
    """Where the time of the run went."""
    bundle: BundleRecord
    noise: dict[str, dict[str, float]]
    """Per scenario and pattern the median of the A/A control divided by ours: the A/A control."""
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        started = msgspec.convert(self.started, datetime)
        if started.utcoffset() != timedelta(0):
            raise ValueError(f"`started` is {self.started}; it must be a time in UTC")

    def of(self, *scenarios: str) -> tuple[Row, ...]:
        """Rows of these scenarios that were measured."""
        return tuple(row for row in self.rows if row.scenario in scenarios and row.samples)


def controls(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Our rows beside their controls, as (ours, control)."""
    measured = [row for row in rows if row.samples]
    paired = {_pair_key(row): row for row in measured if row.contender == CONTROL}
    ours = (row for row in measured if row.contender == OURS)
    return [(row, paired[_pair_key(row)]) for row in ours if _pair_key(row) in paired]


def measured_noise(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """`Report.noise` of these rows: of several controls of a pattern the one farthest from 1."""
    noise: dict[str, dict[str, float]] = {}
    for ours, control in controls(rows):
        middle = float(np.median(ours.samples))
        ratio = float(np.median(control.samples)) / middle if middle > 0 else 0.0
        if ratio > 0:
            patterns = noise.setdefault(ours.scenario, {})
            patterns[ours.pattern] = max(patterns.get(ours.pattern, 1.0), ratio, key=_distance)
    return noise


def spread(noise: Mapping[str, Mapping[str, float]], scenario: str) -> float | None:
    """The farthest that a control of a scenario lay from 1, such as 0.04; None without a control.
    All patterns count: a single one may lie near 1 by luck."""
    distances = [_distance(ratio) for ratio in noise.get(scenario, {}).values()]
    return math.expm1(max(distances)) if distances else None


def _distance(ratio: float) -> float:
    """From 1, alike for a ratio and its reciprocal."""
    return abs(math.log(ratio))


def _pair_key(row: Row) -> tuple[object, ...]:
    """What a control shares with our row of the same graph."""
    return (*row.group, row.backend, row.precision)


def write_report(report: Report, path: Path) -> None:
    """Write the record whole or not at all. Raises OutputError where that cannot be."""
    content = msgspec.json.encode(report, enc_hook=_plain)
    with atomic_file(path) as part:
        part.write_bytes(content + b"\n")


def read_report(path: Path) -> Report:
    """Read a record. Raises InputError for a file that is absent, damaged, newer or no record."""
    try:
        content = read_regular(path, InputError)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read {path}: {reason}; give a report of ifmmin-bench") from error
    try:
        head = msgspec.json.decode(content)
    except JSON_ERRORS as error:
        raise InputError(
            f"{path} is not whole JSON ({error}); give a report that ifmmin-bench wrote"
        ) from error
    if not isinstance(head, dict) or not {"schema", "rows", "settings"} <= head.keys():
        raise InputError(f"{path} is no report of ifmmin-bench; give the JSON file that it wrote")
    if head["schema"] != SCHEMA:
        raise InputError(
            f"{path} is a report of schema {head['schema']!r}, this version reads {SCHEMA}; "
            "read it with the version of ifmmin that wrote it"
        )
    try:
        return msgspec.convert(head, Report)
    except msgspec.ValidationError as error:
        raise InputError(
            f"{path} is a damaged report: {error}; run the benchmark again or restore the file"
        ) from error


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python: a long run is not lost for its kind."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a record cannot hold a {type(value).__name__}")
