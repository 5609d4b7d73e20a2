"""What a bundle's graphs count, how that is split, and below what nothing can be."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_graphs import floats, graph_bytes, lstm_bytes, node_bytes, scan_bytes

from ifmmin.benchmarks.device.machine import Cache
from ifmmin.benchmarks.roofline.bound import lower_bound
from ifmmin.benchmarks.roofline.count import (
    HEAD,
    Count,
    axis_sizes,
    count_graph,
    input_owners,
    node_parts,
)
from ifmmin.benchmarks.roofline.probe import (
    DISTURBED,
    Rates,
    Reading,
    ceiling,
    find_compiler,
    measure_rates,
)
from ifmmin.benchmarks.roofline.profile import OVERHEAD, kernel_times, shares, split_time
from ifmmin.benchmarks.timing import time_together
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.bundle import Bundle, GraphEntry
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Pattern


@pytest.fixture(scope="module")
def bundle(make_bundle: Callable[..., Path]) -> Bundle:
    return Bundle(make_bundle(precisions=("fp32", "fp16", "int8")))


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


def test_long_utterances_and_what_cannot_be_split(bundle: Bundle) -> None:
    entry = _graph(bundle, "latency", "a_t", "fp32")
    assert _split(bundle, entry, a=4000, t=5)["a"] > 0.6
    found = _split(bundle, entry, a=1, t=5)
    assert found["a"] < 0.4
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
        "Relu": "a", "t.output.Add": "t", "a.entry.Add": HEAD, "Add": HEAD, "sum.Add": HEAD,
        "fused .head.Add": HEAD,
    }  # fmt: skip


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
    with pytest.raises(InputError, match=r"no part of it \(Cast_7\)"):
        shares({**TIMES, "Cast_7": 1.0}, PARTS, call=200.0)


FRAMES = 9
# The sizes in tests/support/small_networks.py.
ACOUSTIC, TEXT, HIDDEN, CHANNELS, STAGES = 5, 11, 8, 6, 3
CHAIN, CLASSIFIER = (10, 9, 4), (12, 8)
ENCODER_A = 4 * HIDDEN * (ACOUSTIC + HIDDEN) * FRAMES
ENCODER_T = sum((FRAMES - k + 1) * CHANNELS * k * TEXT for k in (3, 4, 5)) + 18 * HIDDEN


def _head(modalities: int) -> int:
    """S per modality; S and H' into the chain; encoders, decoders but the last, links; classifier.

    The last layer of a decoder and the first of the next encoder are one matrix, a link.
    """
    wide, middle, narrow = CHAIN
    embedded = modalities * HIDDEN
    invariant = 2 * HIDDEN * HIDDEN * modalities
    entry = embedded * wide + embedded * STAGES * wide
    encoders = STAGES * (wide * middle + middle * narrow)
    decoders = (STAGES - 1) * (narrow * middle + middle * wide + wide * wide)
    first, second = CLASSIFIER
    return invariant + entry + encoders + decoders + 12 * first + first * second + second * 4


def _count(bundle: Bundle, entry: GraphEntry, batch: int = 1) -> Count:
    lengths = dict.fromkeys("avt", FRAMES)
    return count_graph(bundle.graph(entry), axis_sizes(lengths, batch), input_owners(entry))


def _by_part(count: Count) -> dict[str, int]:
    parts: Counter[str] = Counter()
    for work in count.works:
        parts[work.part] += work.arithmetic * work.repeats
    return dict(parts)


EXPECTED = {
    "a": {"a": ENCODER_A, "head": _head(1)},
    "t": {"t": ENCODER_T, "head": _head(1)},
    "a_t": {"a": ENCODER_A, "t": ENCODER_T, "head": _head(2)},
}


@pytest.mark.parametrize("pattern", EXPECTED)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_parts_of_a_latency_graph(bundle: Bundle, pattern: str, precision: str) -> None:
    """In float16 the LSTM is a loop: another graph with the same multiply-adds."""
    count = _count(bundle, _graph(bundle, "latency", pattern, precision))
    assert _by_part(count) == EXPECTED[pattern]
    assert count.uncounted == ()


def test_in_8_bits_text_takes_products_of_all_tokens(bundle: Bundle) -> None:
    parts = _by_part(_count(bundle, _graph(bundle, "latency", "a_t", "int8")))
    rows = FRAMES * TEXT * CHANNELS * (3 + 4 + 5)
    assert parts == {"a": ENCODER_A, "t": rows + 18 * HIDDEN, "head": _head(2)}


@pytest.mark.parametrize("pattern", EXPECTED)
def test_a_batch_multiplies_as_often_as_its_utterances(bundle: Bundle, pattern: str) -> None:
    entry = _graph(bundle, "throughput", pattern, "fp32")
    one, many = _count(bundle, entry), _count(bundle, entry, batch=3)
    assert _by_part(one) == EXPECTED[pattern]
    assert many.arithmetic == 3 * one.arithmetic
    assert many.weight_bytes == one.weight_bytes


def test_weights_take_what_they_take_in_the_file(bundle: Bundle) -> None:
    for pattern in EXPECTED:
        size = {}
        for precision in ("fp32", "fp16", "int8"):
            entry = _graph(bundle, "latency", pattern, precision)
            size[precision] = _count(bundle, entry).weight_bytes
            assert size[precision] < entry.bytes
        assert size["fp16"] < 0.55 * size["fp32"]
        assert size["int8"] < 0.55 * size["fp32"]


def test_every_graph_can_be_counted(bundle: Bundle) -> None:
    sizes = {**axis_sizes(dict.fromkeys("avt", FRAMES), 2), "N": 5, "S": 4}
    for entry in bundle.manifest.graphs:
        count = count_graph(bundle.graph(entry), sizes, input_owners(entry))
        assert count.arithmetic > 0
        assert count.uncounted == ()
        parts = {work.part for work in count.works}
        assert parts <= {*input_owners(entry).values(), "head"}
        assert parts == {"head"} or entry.shape != "head"
        assert "head" not in parts or entry.shape != "step"


PEAK, NEAR, FAR = 1000.0, 64.0, 4.0
"""Multiply-adds, and bytes read from the near and the far level, per second."""
EDGE = 1024


def _read(*pairs: tuple[int, float], busy: float = 1.0) -> tuple[Reading, ...]:
    return tuple(Reading(size=size, rate=rate, busy=busy) for size, rate in pairs)


RATES = Rates(
    threads=1, float32=PEAK, int8=None, int8_kernel="not timed: made", busy=1.0,
    read=_read((256, NEAR), (EDGE, FAR)), probe="made",
)  # fmt: skip


def _lstm(steps: int, width: int, hidden: int) -> Count:
    return count_graph(lstm_bytes("T", 1, width, hidden), {"T": steps}, {"x": "a"})


def test_a_product_waits_for_the_slower_of_arithmetic_and_weights() -> None:
    content = node_bytes("MatMul", ["T", 4], {"w": floats(4, 8)})
    waits, works = (count_graph(content, {"T": n}, {"x": "a"}) for n in (1, 1000))
    assert lower_bound(waits, RATES).seconds == pytest.approx(4 * 32 / NEAR)
    bound = lower_bound(works, RATES)
    assert bound.seconds == pytest.approx(1000 * 32 / PEAK)
    assert bound.notes == ()


def test_a_recurrence_reads_its_weights_in_every_step() -> None:
    T, D, H = 10, 12, 4
    # All weights are beyond the edge, the recurrent ones alone are not.
    W, R, B = 16 * H * D, 16 * H * H, 32 * H
    assert R <= EDGE < W + R + B
    inputs = max(4 * H * D * T / PEAK, (W + B) / FAR)
    first, later = (max(4 * H * H / PEAK, R / rate) for rate in (FAR, NEAR))
    expected = inputs + first + (T - 1) * later
    assert lower_bound(_lstm(T, D, H), RATES).seconds == pytest.approx(expected)
    # Where arithmetic is slower, it takes that.
    slow = msgspec.structs.replace(RATES, float32=1.0)
    assert lower_bound(_lstm(T, D, H), slow).seconds == pytest.approx(4 * H * (D + H) * T)


def test_a_weight_that_is_read_again_comes_from_near() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "far"], ["h"], "/one/MatMul"),
        helper.make_node("MatMul", ["h", "w"], ["i"], "/two/MatMul"),
        helper.make_node("MatMul", ["i", "w"], ["y"], "/three/MatMul"),
    ]
    weights = {"far": floats(64, 8), "w": floats(8, 8)}
    count = count_graph(graph_bytes(nodes, {"x": [1, 64]}, weights), {}, {"x": "v"})
    expected = (4 * 64 * 8 + 4 * 64) / FAR + 4 * 64 / NEAR
    assert lower_bound(count, RATES).seconds == pytest.approx(expected)


def test_8_bits_count_at_the_higher_rate_or_by_their_bytes() -> None:
    weights = {"w": np.ones((8, 8), np.uint8)}
    content = node_bytes("MatMulInteger", [100, 8], weights, kind=TensorProto.UINT8)
    count = count_graph(_with_int32_output(content), {}, {"x": "t"})
    timed = msgspec.structs.replace(RATES, int8=4 * PEAK)
    assert lower_bound(count, timed).seconds == pytest.approx(100 * 64 / (4 * PEAK))
    assert lower_bound(count, timed).notes == ()
    slower = msgspec.structs.replace(RATES, int8=PEAK / 4)
    assert lower_bound(count, slower).seconds == pytest.approx(100 * 64 / PEAK)
    untimed = lower_bound(count, RATES)
    assert untimed.seconds == pytest.approx(64 / NEAR)
    assert "int8 count by the bytes of their weights alone (not timed: made)" in untimed.notes[0]


def _with_int32_output(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    changed: bytes = model.SerializeToString()
    return changed


def test_doubts_are_told() -> None:
    count = Count(_lstm(2, 3, 4).works, ("GRU",))
    busy = msgspec.structs.replace(RATES, read=_read((256, NEAR), (EDGE, FAR), busy=0.5))
    notes = lower_bound(count, busy).notes
    assert notes[0] == "not counted: GRU"
    assert "other work took 50% of the processors" in notes[1]
    assert lower_bound(_lstm(2, 3, 4), RATES).notes == ()


def test_a_rate_is_that_of_the_largest_set_that_is_no_larger() -> None:
    assert [RATES.bandwidth(n) for n in (1, 256, EDGE - 1)] == [NEAR] * 3
    assert [RATES.bandwidth(n) for n in (EDGE, 10 * EDGE)] == [FAR] * 2


def test_disturbed_rates_are_lifted_to_what_is_possible() -> None:
    one = msgspec.structs.replace(RATES, read=_read((256, 10.0), (512, 20.0), (1024, 5.0)))
    two = msgspec.structs.replace(
        RATES, threads=2, float32=PEAK / 2, int8=7.0, read=_read((256, 30.0), (512, 8.0), (1024, 9))
    )
    found = ceiling([one, two])
    assert [reading.rate for reading in found.read] == [30.0, 20.0, 9.0]
    assert (found.threads, found.float32, found.int8) == (2, PEAK, 7.0)
    assert [reading.rate for reading in ceiling([one]).read] == [20.0, 20.0, 5.0]


def test_rates_by_level() -> None:
    caches = (
        Cache(name="L1d", size=512, instances=4),
        Cache(name="L1i", size=512, instances=4),
        Cache(name="L2", size=4096, instances=1),
    )
    assert RATES.by_level(caches) == {"L1d": NEAR, "L2": FAR, "memory": FAR}
    # Four threads have four first caches, together as large as the far level.
    four = msgspec.structs.replace(RATES, threads=4)
    assert four.by_level(caches) == {"L1d": FAR, "L2": FAR, "memory": FAR}


@pytest.mark.skipif(find_compiler() is None, reason="there is no C compiler")
@pytest.mark.parametrize("make", ["lstm", "product"])
def test_nothing_is_faster_than_the_bound(make: str, tmp_path: Path) -> None:
    """With room for a clock that rose since the probe; a control shows that the room is small."""
    if make == "lstm":
        content = lstm_bytes("T", 1, 64, 128)
        feed = {"x": np.zeros((100, 1, 64), np.float32)}
    else:
        content = node_bytes("MatMul", [1, 1024], {"w": floats(1024, 1024)})
        feed = {"x": np.zeros((1, 1024), np.float32)}
    rates = measure_rates(1, tmp_path)
    count = count_graph(content, {"T": 100}, {"x": "a"})
    bound = lower_bound(count, rates)
    if bound.notes or rates.busy < DISTURBED:
        pytest.skip(f"the rates are in doubt: {rates.probe}; {bound.notes}")
    run = OnnxRuntimeCpu().load(content)
    fastest = time_together({"run": lambda: run(feed)}, repeats=200)["run"].min()
    assert fastest > 0.7 * bound.seconds
    assert fastest < 30 * bound.seconds
