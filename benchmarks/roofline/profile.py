"""Profile of a call: its time divided among encoders, head and the engine around the kernels."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends.onnxruntime import (
    CPU,
    load_onnxruntime,
    make_session,
    runner_of,
    session_options,
)
from ifmmin.runtime.errors import InputError

from ..timing import time_together
from .count import load_onnx, node_parts

_KERNEL = "_kernel_time"
OVERHEAD = "overhead"
"""What is not a kernel: dispatch from node to node, inputs and outputs, the call itself."""
_OPTIMISED = "optimised.onnx"
_CURE = "run pip install 'ifmmin[cpu]'"


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
    for one, following in itertools.pairwise(kernels):
        # Cut off times of neighbours never overlap, those of a node within another do.
        if following.ts < one.end:
            raise InputError(
                f"{one.name.removesuffix(_KERNEL)} is a loop, and a profile of it tells of the "
                "profiler; take the graph of recurrence lstm instead of scan"
            )
    times: dict[str, float] = {}
    for run in sorted(runs, key=lambda run: run.dur)[:kept]:
        for kernel in kernels:
            if run.ts <= kernel.ts < run.end:
                name = kernel.name.removesuffix(_KERNEL)
                times[name] = times.get(name, 0.0) + kernel.dur * 1e-6 / kept
    return times


def split_time(
    content: bytes,
    feed: Mapping[str, NDArray[Any]],
    owners: Mapping[str, str],
    *,
    threads: int = 1,
    repeats: int = 100,
) -> dict[str, float]:
    """Shares of the time of a call on ONNX Runtime's CPU: `a`, `v`, `t`, `head`, `overhead`; sum 1.

    content: the graph. feed: its inputs. owners: see `input_owners`. repeats: calls, of which the
    fastest tenth counts, which other work disturbed least.

    Two sessions take turns, one of which writes a profile. In a profile the profiler's own work is
    within the times of the nodes, and would pass for the head, which has many small ones. The
    fastest node of the graph, one that only renames what it is given, has little else in its time:
    that is taken from every node. Overhead is what is left of a call without a profile.

    Raises InputError without the package onnx, for a graph with a loop, and for one that ONNX
    Runtime has to convert for the CPU.
    """
    ort, kept = load_onnxruntime(_CURE), max(1, repeats // 10)
    options, plain_options = session_options(ort, threads), session_options(ort, threads)
    with tempfile.TemporaryDirectory(prefix="ifmmin-profile-") as name:
        folder = Path(name)
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        options.optimized_model_filepath = str(folder / _OPTIMISED)
        profiled = make_session(ort, content, options, [CPU])
        plain = make_session(ort, content, plain_options, [CPU])
        calls = {
            key: partial(runner_of(session), feed)
            for key, session in (("profiled", profiled), ("plain", plain))
        }
        timings = time_together(calls, repeats=repeats)
        profile = Path(profiled.end_profiling()).read_bytes()
        graph = load_onnx().load(folder / _OPTIMISED).graph
    found = node_parts(graph, owners)
    parts = {node.name: found[node.output[0]] for node in graph.node if node.output[0] in found}
    call = float(np.sort(timings["plain"])[:kept].mean())
    return shares(kernel_times(profile, repeats, kept), parts, call)


def shares(kernels: Mapping[str, float], parts: Mapping[str, str], call: float) -> dict[str, float]:
    """kernels: seconds per node under the profiler. parts: per node. call: seconds without it."""
    unknown = [name for name in kernels if name not in parts]
    if unknown:
        raise InputError(
            f"ONNX Runtime put nodes into the graph that belong to no part of it "
            f"({', '.join(unknown[:3])}); split a graph in fp32 or int8, which it runs as it is"
        )
    cost = min(kernels.values())
    seconds: dict[str, float] = {}
    for name, time in kernels.items():
        seconds[parts[name]] = seconds.get(parts[name], 0.0) + time - cost
    # The two sessions are two measurements: kernels may seem to take longer than a call.
    whole = max(call, sum(seconds.values()))
    found = {part: time / whole for part, time in sorted(seconds.items())}
    return {**found, OVERHEAD: max(0.0, 1.0 - sum(found.values()))}
