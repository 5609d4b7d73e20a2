"""ONNX graphs whose sizes are easy to count by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
Axis = int | str
Weights = Mapping[str, NDArray[Any]]


def graph_bytes(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Sequence[Axis]], weights: Weights, *,
    kind: int = FLOAT, outputs: Sequence[str] = ("y",),
) -> bytes:  # fmt: skip
    """A model of opset 18, with ONNX Runtime's own operators. kind: type of inputs and outputs."""
    graph = helper.make_graph(
        list(nodes),
        "made",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def floats(*shape: int) -> NDArray[np.float32]:
    """Small random weights, the same for the same shape."""
    return np.random.default_rng(0).normal(0.0, 0.1, shape).astype(np.float32)


def node_bytes(
    operator: str, shape: Sequence[Axis], weights: Weights, *, kind: int = FLOAT, **attributes: Any
) -> bytes:
    """x through a node that also takes weights."""
    node = helper.make_node(operator, ["x", *weights], ["y"], f"/m/{operator}", **attributes)
    return graph_bytes([node], {"x": shape}, weights, kind=kind)


def lstm_bytes(steps: Axis, batch: Axis, width: int, hidden: int, directions: int = 1) -> bytes:
    """X (T, B, D) through an LSTM of H hidden values; the weights are W, R and B."""
    direction = "bidirectional" if directions == 2 else "forward"
    node = helper.make_node(
        "LSTM", ["x", "W", "R", "B"], ["y"], "/rnn/LSTM", hidden_size=hidden, direction=direction
    )
    weights = {
        "W": floats(directions, 4 * hidden, width),
        "R": floats(directions, 4 * hidden, hidden),
        "B": floats(directions, 8 * hidden),
    }
    return graph_bytes([node], {"x": [steps, batch, width]}, weights)


def scan_bytes(steps: Axis, hidden: int) -> bytes:
    """(1, T, H) through a Scan that multiplies its state (1, H) by R and adds a frame."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "R"], ["product"], "product"),
            helper.make_node("Add", ["product", "frame"], ["next"], "next"),
        ],
        "body",
        [helper.make_tensor_value_info(name, FLOAT, None) for name in ("state", "frame")],
        [helper.make_tensor_value_info("next", FLOAT, None)],
        [numpy_helper.from_array(floats(hidden, hidden), "R")],
    )
    node = helper.make_node(
        "Scan", ["start", "x"], ["y"], "/loop/Scan", body=body, num_scan_inputs=1,
        scan_input_axes=[1],
    )  # fmt: skip
    start = np.zeros((1, hidden), np.float32)
    return graph_bytes([node], {"x": [1, steps, hidden]}, {"start": start})
