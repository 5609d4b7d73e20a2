"""What a watch saw of an interval, in a form for reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from ifmmin.benchmarks.device.energy import Energy, energy_between
from ifmmin.benchmarks.device.sample import Sample


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
