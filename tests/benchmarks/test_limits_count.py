"""Multiply-adds and weights of operators, against formulas computed by hand."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from made_graphs import floats, graph_bytes, lstm_bytes, scan_bytes
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ifmmin.benchmarks.limits import Count, axis_sizes, count_graph
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.errors import InputError

A = {"x": "a"}


def _count(content: bytes, **sizes: int) -> Count:
    return count_graph(content, sizes, A)


def test_matrix_product() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "/m/MatMul")
    content = graph_bytes([node], {"x": ["B", "T", 7]}, {"w": floats(7, 11)})
    count = _count(content, B=2, T=5)
    assert count.arithmetic == 2 * 5 * 7 * 11
    assert count.weight_bytes == 4 * 7 * 11
    (work,) = count.works
    assert (work.kind, work.part, work.repeats, work.operator) == ("float32", "a", 1, "MatMul")


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_either_way(transposed: int) -> None:
    shape = (7, 3) if transposed else (3, 7)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "/g/Gemm", transA=transposed, transB=1)
    count = _count(graph_bytes([node], {"x": shape}, {"w": floats(11, 7), "b": floats(11)}))
    assert count.arithmetic == 3 * 7 * 11
    assert count.weight_bytes == 4 * (7 * 11 + 11)


def test_convolution_over_time() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "/c/Conv")
    content = graph_bytes([node], {"x": ["B", 1, "T", 10]}, {"w": floats(6, 1, 3, 10)})
    assert _count(content, B=2, T=8).arithmetic == 2 * (8 - 3 + 1) * 6 * 3 * 10


def test_grouped_convolution() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], "/c/Conv", group=2, pads=[1, 1])
    content = graph_bytes([node], {"x": [1, 4, 9]}, {"w": floats(6, 2, 3)})
    assert _count(content).arithmetic == 9 * 6 * 2 * 3


@pytest.mark.parametrize("directions", [1, 2])
def test_lstm(directions: int) -> None:
    T, B, D, H = 9, 2, 5, 8
    count = _count(lstm_bytes("T", "B", D, H, directions), T=T, B=B)
    assert count.arithmetic == directions * 4 * H * (D + H) * T * B
    inputs, state = count.works
    assert (inputs.repeats, inputs.arithmetic) == (1, directions * 4 * H * D * T * B)
    assert (state.repeats, state.arithmetic) == (T, directions * 4 * H * H * B)
    assert inputs.weights == {"W": directions * 16 * H * D, "B": directions * 32 * H}
    assert state.weights == {"R": directions * 16 * H * H}
    assert count.weight_bytes == directions * (16 * H * (D + H) + 32 * H)
    assert count.read_bytes == count.weight_bytes + (T - 1) * directions * 16 * H * H


def test_a_loop_takes_its_body_once_per_step() -> None:
    count = _count(scan_bytes("T", 8), T=9)
    assert count.arithmetic == 9 * 8 * 8
    (work,) = count.works
    assert (work.repeats, sum(work.weights.values()), work.part) == (9, 4 * 8 * 8, "a")
    assert work.node == "/loop/Scan/product"


def test_quantised_product_and_lstm() -> None:
    from ifmmin.export.quantise import DynamicQuantiser

    T, D, H = 6, 5, 8
    product = helper.make_node("MatMul", ["y", "w"], ["z"], "/after/MatMul")
    lstm = onnx.load_from_string(lstm_bytes(T, 1, D, H))
    lstm.graph.node.append(product)
    lstm.graph.initializer.append(onnx.numpy_helper.from_array(floats(H, 16), "w"))
    lstm.graph.output[0].name = "z"
    quantise = DynamicQuantiser(lstm, [], lambda m: OnnxRuntimeCpu().load(m.SerializeToString()))
    small = quantise(list(quantise.groups))
    plain, count = (_count(model.SerializeToString()) for model in (lstm, small))
    assert count.arithmetic == plain.arithmetic == 4 * H * (D + H) * T + T * H * 16
    assert {work.kind for work in count.works if work.arithmetic} == {"int8"}
    assert count.works[1].repeats == T
    # Four times fewer, and a scale and a zero point per column, or per gate of an LSTM.
    saved = plain.weight_bytes - count.weight_bytes
    assert saved > 3 * (4 * H * (D + H) + H * 16) - 8 * (8 * H + 16)
    assert saved < 3 * (4 * H * (D + H) + H * 16)


def test_pairs_count_as_8_bits() -> None:
    quantised = np.ones((7, 11), np.int8)
    scalars: dict[str, NDArray[Any]] = {
        "s": np.array(0.1, np.float32),
        "z": np.array(0, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dx"], "dx"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["dw"], "dw"),
        helper.make_node("MatMul", ["dx", "dw"], ["y"], "/m/MatMul"),
    ]
    count = _count(graph_bytes(nodes, {"x": [3, 7]}, {"w": quantised, **scalars}))
    (work,) = count.works
    assert (work.kind, work.arithmetic) == ("int8", 3 * 7 * 11)
    assert sum(work.weights.values()) == 7 * 11 + 4 + 1  # the scale, the zero point


def test_8_bit_product_that_onnx_runtime_fuses() -> None:
    node = helper.make_node(
        "DynamicQuantizeMatMul", ["x", "w", "s"], ["y"], "/m/M", domain="com.microsoft"
    )
    weights: dict[str, NDArray[Any]] = {
        "w": np.ones((7, 11), np.uint8),
        "s": np.ones(1, np.float32),
    }
    (work,) = _count(graph_bytes([node], {"x": ["T", 7]}, weights), T=4).works
    assert (work.kind, work.arithmetic) == ("int8", 4 * 7 * 11)


def test_constants_are_computed_once_and_not_counted() -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], "t", perm=[1, 0]),
        helper.make_node("MatMul", ["u", "t"], ["folded"], "folded"),
        helper.make_node("MatMul", ["x", "folded"], ["y"], "/m/MatMul"),
    ]
    content = graph_bytes(nodes, {"x": [3, 7]}, {"w": floats(11, 5), "u": floats(7, 5)})
    count = _count(content)
    assert count.arithmetic == 3 * 7 * 11
    # Either 7 x 11 values, or the 11 x 5 and 7 x 5 they are made of: the less.
    assert count.weight_bytes == 4 * min(7 * 11, 11 * 5 + 7 * 5)


def test_weights_that_nodes_share_are_there_once_and_read_twice() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "/one/MatMul"),
        helper.make_node("MatMul", ["h", "w"], ["y"], "/two/MatMul"),
    ]
    count = _count(graph_bytes(nodes, {"x": [1, 7]}, {"w": floats(7, 7)}))
    assert (count.weight_bytes, count.read_bytes) == (4 * 49, 8 * 49)


def test_indices_are_no_weights() -> None:
    nodes = [helper.make_node("Unsqueeze", ["x", "axes"], ["y"], "/Unsqueeze")]
    content = graph_bytes(nodes, {"x": [3]}, {"axes": np.array([0])})
    assert _count(content).works == ()


def test_an_unknown_operator_is_named() -> None:
    node = helper.make_node("GRU", ["x", "W", "R"], ["y"], "/rnn/GRU", hidden_size=2)
    weights = {"W": floats(1, 6, 3), "R": floats(1, 6, 2)}
    assert _count(graph_bytes([node], {"x": [4, 1, 3]}, weights)).uncounted == ("GRU",)


def test_half_precision_has_half_the_bytes() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "/m/MatMul")
    weights = {"w": floats(7, 11).astype(np.float16)}
    content = graph_bytes([node], {"x": [3, 7]}, weights, kind=TensorProto.FLOAT16)
    (work,) = _count(content).works
    assert (work.kind, sum(work.weights.values())) == ("float16", 2 * 7 * 11)


def test_a_free_axis_needs_a_size() -> None:
    with pytest.raises(InputError, match=r"free axis T, sizes were given for B; give the size"):
        _count(lstm_bytes("T", "B", 3, 2), B=1)


def test_sizes_of_axes() -> None:
    assert axis_sizes({"a": 50, "t": 22}, batch=4) == {"B": 4, "T_a": 50, "T_t": 22}


def test_without_onnx_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    content = lstm_bytes("T", "B", 3, 2)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="pip install onnx"):
        _count(content, T=2, B=1)


def test_imports_without_onnx_and_torch() -> None:
    script = (
        "import sys\nfor name in ('onnx', 'torch', 'onnxruntime'): sys.modules[name] = None\n"
        "import ifmmin.benchmarks.limits\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)
