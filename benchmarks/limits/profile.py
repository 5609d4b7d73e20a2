"""Kernel times from the profile that ONNX Runtime writes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from ifmmin.runtime.errors import InputError

_KERNEL = "_kernel_time"


class _Event(msgspec.Struct, frozen=True):
    name: str
    cat: str = ""
    ts: int = 0
    dur: int = 0

    @property
    def end(self) -> int:
        return self.ts + self.dur


def kernel_times(content: bytes, calls: int, kept: int) -> dict[str, float]:
    """Mean seconds of every node in the `kept` fastest of the last `calls` calls, by its name.

    content: the file. Times are whole microseconds, cut off, and hold the profiler's own work.
    Raises InputError for a graph with a loop, whose time would be mostly the profiler's.
    """
    events = sorted(msgspec.json.decode(content, type=list[_Event]), key=lambda event: event.ts)
    runs = [event for event in events if event.name == "model_run"][-calls:]
    kernels = [event for event in events if event.cat == "Node" and event.name.endswith(_KERNEL)]
    _require_flat(kernels)
    times: dict[str, float] = {}
    for run in sorted(runs, key=lambda run: run.dur)[:kept]:
        for kernel in kernels:
            if run.ts <= kernel.ts < run.end:
                name = kernel.name.removesuffix(_KERNEL)
                times[name] = times.get(name, 0.0) + kernel.dur * 1e-6 / kept
    return times


def _require_flat(kernels: Sequence[_Event]) -> None:
    """InputError if a node ran within another. Cut off times of neighbours never overlap."""
    for one, following in itertools.pairwise(kernels):
        if following.ts < one.end:
            raise InputError(
                f"{one.name.removesuffix(_KERNEL)} is a loop, and a profile of it tells of the "
                "profiler; take the graph of recurrence lstm instead of scan"
            )
