"""How the time of a call divides: the parts of nodes, profiles made by hand, and real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from made_graphs import floats, graph_bytes, scan_bytes
from onnx import helper
from small_bundles import small_bundle

from ifmmin.benchmarks.limits import HEAD, OVERHEAD, axis_sizes, input_owners, split_time
from ifmmin.benchmarks.limits.graph import node_parts
from ifmmin.benchmarks.limits.split import kernel_times, shares
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.manifest import GraphEntry
from ifmmin.runtime.modality import Pattern


@pytest.fixture(scope="module")
def bundle(make_network: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path: Path = small_bundle(
        make_network, tmp_path_factory, ("a", "t", "a_t"), ("fp32", "fp16", "int8")
    )
    return Bundle(path)


def _graph(bundle: Bundle, shape: str, pattern: str, precision: str) -> GraphEntry:
    wanted = (shape, Pattern.parse(pattern), precision)
    (entry,) = [g for g in bundle.manifest.graphs if (g.shape, g.pattern, g.precision) == wanted]
    return entry


def _split(bundle: Bundle, entry: GraphEntry, **frames: int) -> dict[str, float]:
    sizes = axis_sizes(frames, batch=2)
    feed = {}
    for spec in entry.inputs:
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
        full = frames[spec.name[0]] if spec.dtype == "int64" else 0
        feed[spec.name] = np.full(shape, full, spec.dtype)
    return split_time(bundle.graph(entry), feed, input_owners(entry), repeats=30)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("shape", ["latency", "throughput"])
@pytest.mark.parametrize(("pattern", "parts"), [("a", {"a"}), ("a_t", {"a", "t"})])
def test_shares_of_a_call(
    bundle: Bundle, shape: str, pattern: str, parts: set[str], precision: str
) -> None:
    found = _split(bundle, _graph(bundle, shape, pattern, precision), a=20, t=20)
    assert set(found) == {*parts, HEAD, OVERHEAD}
    assert sum(found.values()) == pytest.approx(1.0)
    assert all(share >= 0.0 for share in found.values())


def test_a_long_utterance_is_the_encoders_time(bundle: Bundle) -> None:
    entry = _graph(bundle, "latency", "a_t", "fp32")
    assert _split(bundle, entry, a=4000, t=5)["a"] > 0.6
    found = _split(bundle, entry, a=1, t=5)
    assert found["a"] < 0.4


def test_a_loop_and_what_is_converted_cannot_be_split(bundle: Bundle) -> None:
    loop = scan_bytes("T", 8)
    with pytest.raises(InputError, match="is a loop"):
        split_time(loop, {"x": np.zeros((1, 5, 8), np.float32)}, {"x": "a"}, repeats=10)
    with pytest.raises(InputError, match="split a graph in fp32 or int8"):
        _split(bundle, _graph(bundle, "latency", "t", "fp16"), t=9)


def test_nodes_belong_to_the_modality_they_depend_on() -> None:
    def add(name: str, *inputs: str) -> onnx.NodeProto:
        return helper.make_node("Add", inputs, [name.strip("/").replace("/", ".")], name)

    nodes = [
        helper.make_node("Relu", ["a"], ["Relu"], "/Relu"),
        add("/t/output/Add", "t", "w"),
        add("/constant/Add", "w", "w"),
        add("/a/entry/Add", "Relu", "w"),  # by its name
        add("/Add", "a.entry.Add", "constant.Add"),  # by what it follows
        add("/sum/Add", "Relu", "t.output.Add"),  # by what it depends on
        add("fused /head/Add", "t", "w"),
    ]
    content = graph_bytes(nodes, {"a": [1], "t": [1]}, {"w": floats(1)}, outputs=("Add",))
    graph = onnx.load_from_string(content).graph
    assert node_parts(graph, {"a": "a", "t": "t"}) == {
        "Relu": "a",
        "t.output.Add": "t",
        "a.entry.Add": HEAD,
        "Add": HEAD,
        "sum.Add": HEAD,
        "fused .head.Add": HEAD,
    }


def _event(name: str, ts: int, dur: int, cat: str = "Node") -> dict[str, Any]:
    return {"name": name, "cat": cat, "ts": ts, "dur": dur, "ph": "X", "args": {}}


def _call(ts: int, *kernels: tuple[str, int]) -> list[dict[str, Any]]:
    events = [_event("model_run", ts, 2 + sum(dur for _, dur in kernels), "Session")]
    for name, dur in kernels:
        events.append(_event(f"{name}_kernel_time", ts + 1, dur))
        ts += dur
    return events


def test_times_are_those_of_the_fastest_calls() -> None:
    events = [
        _event("session_initialization", 0, 50, "Session"),
        *_call(100, ("x", 900), ("y", 900)),  # warm-up: not among the last three
        *_call(2000, ("x", 10), ("y", 30)),
        *_call(3000, ("x", 100), ("y", 300)),  # disturbed
        *_call(4000, ("x", 20), ("y", 40)),
    ]
    content = json.dumps(events).encode()
    times = kernel_times(content, calls=3, kept=2)
    assert times == {"x": pytest.approx(15e-6), "y": pytest.approx(35e-6)}
    # Control: with all calls the disturbed one counts.
    assert kernel_times(content, calls=3, kept=3)["x"] == pytest.approx(130e-6 / 3)


def test_nodes_within_nodes_are_refused() -> None:
    events = [*_call(10, ("loop", 50), ("after", 5)), _event("body_kernel_time", 30, 5)]
    with pytest.raises(InputError, match="loop is a loop"):
        kernel_times(json.dumps(events).encode(), calls=1, kept=1)
    assert set(kernel_times(json.dumps(events[:-1]).encode(), 1, 1)) == {"loop", "after"}


PARTS = {"lstm": "a", "squeeze": "a", "gemm": HEAD, "relu": HEAD}
TIMES = {"lstm": 105.0, "squeeze": 5.0, "gemm": 45.0, "relu": 15.0}


def test_the_profilers_work_on_every_node_is_taken_off() -> None:
    assert shares(TIMES, PARTS, call=200.0) == pytest.approx({"a": 0.5, HEAD: 0.25, OVERHEAD: 0.25})
    # Kernels that seem to take longer than the call leave nothing over.
    assert shares(TIMES, PARTS, call=50.0) == pytest.approx(
        {"a": 100 / 150, HEAD: 50 / 150, OVERHEAD: 0.0}
    )


def test_a_node_of_no_part_is_refused() -> None:
    with pytest.raises(InputError, match=r"no part of it \(Cast_7\)"):
        shares({**TIMES, "Cast_7": 1.0}, PARTS, call=200.0)
