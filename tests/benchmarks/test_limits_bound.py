"""The bound: by hand for made rates, and below what is measured with those of this machine."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from made_graphs import floats, graph_bytes, lstm_bytes
from onnx import TensorProto, helper

from ifmmin.benchmarks.device.machine import Cache
from ifmmin.benchmarks.limits import Count, Rates, Reading, count_graph, lower_bound, measure_rates
from ifmmin.benchmarks.limits.probe import DISTURBED, ceiling, find_compiler
from ifmmin.benchmarks.timing import time_together
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu

PEAK, NEAR, FAR = 1000.0, 64.0, 4.0
"""Multiply-adds, and bytes read from the near and the far level, per second."""
EDGE = 1024


def _read(*pairs: tuple[int, float], busy: float = 1.0) -> tuple[Reading, ...]:
    return tuple(Reading(size=size, rate=rate, busy=busy) for size, rate in pairs)


RATES = Rates(
    threads=1,
    float32=PEAK,
    int8=None,
    int8_kernel="not timed: made",
    busy=1.0,
    read=_read((256, NEAR), (EDGE, FAR)),
    probe="made",
)


def _lstm(steps: int, width: int, hidden: int) -> Count:
    return count_graph(lstm_bytes("T", 1, width, hidden), {"T": steps}, {"x": "a"})


def test_a_product_waits_for_the_slower_of_arithmetic_and_weights() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "/head/MatMul")
    content = graph_bytes([node], {"x": ["T", 4]}, {"w": floats(4, 8)})
    waits, works = (count_graph(content, {"T": n}, {"x": "a"}) for n in (1, 1000))
    assert lower_bound(waits, RATES).seconds == pytest.approx(4 * 32 / NEAR)
    bound = lower_bound(works, RATES)
    assert bound.seconds == pytest.approx(1000 * 32 / PEAK)
    assert (bound.arithmetic, bound.weight_bytes) == (32000, 128)
    assert bound.by_part == {"head": bound.seconds}
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


def test_steps_take_their_arithmetic_where_that_is_slower() -> None:
    slow = msgspec.structs.replace(RATES, float32=1.0)
    T, D, H = 10, 3, 4
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
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"], "/m/M")
    content = graph_bytes(
        [node], {"x": [100, 8]}, {"w": np.ones((8, 8), np.uint8)}, kind=TensorProto.UINT8
    )
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
    import onnx

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
        node = helper.make_node("MatMul", ["x", "w"], ["y"], "/m/MatMul")
        content = graph_bytes([node], {"x": [1, 1024]}, {"w": floats(1024, 1024)})
        feed = {"x": np.zeros((1, 1024), np.float32)}
    rates = measure_rates(1, tmp_path)
    count = count_graph(content, {"T": 100}, {"x": "a"})
    bound = lower_bound(count, rates)
    if bound.notes or rates.busy < DISTURBED:
        pytest.skip(f"the rates are in doubt: {rates.probe}; {bound.notes}")
    run = OnnxRuntimeCpu().load(content)
    fastest = time_together({"run": lambda: run(feed)}, repeats=200)["run"].samples.min()
    assert fastest > 0.7 * bound.seconds
    assert fastest < 30 * bound.seconds
