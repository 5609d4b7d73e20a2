"""Small recurrent ONNX graphs in the forms that the exporter writes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from small_pieces import CLASSES, DIMS, HIDDEN, TYPES, Draw, head_nodes, info, model_bytes, node

from ifmmin.runtime.modality import Modality


def _lstm_weights(draw: Draw) -> None:
    draw.constant("zero_state", np.zeros((1, 1, HIDDEN)), str(draw.dtype))
    draw.weight("W", 1, 4 * HIDDEN, DIMS[Modality.A])
    draw.weight("R", 1, 4 * HIDDEN, HIDDEN)
    # The second half belongs to the recurrent product; a loop has one bias for both.
    bias = np.concatenate([draw.rng.normal(0, 0.3, 4 * HIDDEN), np.zeros(4 * HIDDEN)])
    draw.constant("B_", bias[None], str(draw.dtype))
    draw.weight("head_weight", CLASSES, HIDDEN)
    draw.weight("head_bias", CLASSES)


def lstm_graph(dtype: str = "float32") -> bytes:
    """Latency: `a` (T_a, 5) -> LSTM -> maximum over time -> logits (4,). Initial states are given,
    in the type of the graph: TensorRT 10 would make up float32 ones."""
    draw = Draw(dtype)
    _lstm_weights(draw)
    draw.constant("axis0", [0])
    draw.constant("axis1", [1])
    nodes = [
        node("Cast", ["a"], ["x"], to=TYPES[dtype]),
        node("Unsqueeze", ["x", "axis1"], ["steps"]),
        node("LSTM", ["steps", "W", "R", "B_", "", "zero_state", "zero_state"], ["y"],
             name="rnn", hidden_size=HIDDEN),
        node("ReduceMax", ["y", "axis0"], ["highest"], keepdims=0),
        node("Flatten", ["highest"], ["pooled"], axis=1),
        *head_nodes("pooled"),
    ]  # fmt: skip
    return model_bytes(nodes, [info("a", "T_a", 5)], [info("logits", CLASSES)], draw)


def _scan_body(dtype: str, *, masked: bool) -> onnx.GraphProto:
    """One step of an LSTM whose input product is made before, with the maximum so far as a state.

    Gates in ONNX's order i, o, f, c. A masked step leaves the maximum alone.
    """
    rows = "B" if masked else 1
    nodes = [
        node("MatMul", ["h", "Rt"], ["recurred"]),
        node("Add", ["product", "recurred"], ["gates"]),
        node("Split", ["gates"], ["i", "o", "f", "g"], axis=1, num_outputs=4),
        *[node("Sigmoid", [gate], [f"{gate}_open"]) for gate in "iof"],
        node("Tanh", ["g"], ["candidate"]),
        node("Mul", ["f_open", "c"], ["kept"]),
        node("Mul", ["i_open", "candidate"], ["added"]),
        node("Add", ["kept", "added"], ["next_c"]),
        node("Tanh", ["next_c"], ["shown"]),
        node("Mul", ["o_open", "shown"], ["next_h"]),
        node("Max", ["m", "next_h"], ["higher" if masked else "next_m"]),
    ]
    if masked:
        nodes.append(node("Where", ["within", "higher", "m"], ["next_m"]))
    states = [info(name, rows, HIDDEN, dtype=dtype) for name in "hcm"]
    slices = [info("product", rows, 4 * HIDDEN, dtype=dtype)]
    if masked:
        slices.append(helper.make_tensor_value_info("within", TensorProto.BOOL, [rows, 1]))
    outputs = [info(f"next_{name}", rows, HIDDEN, dtype=dtype) for name in "hcm"]
    return helper.make_graph(nodes, "step", [*states, *slices], outputs)


def _scan_weights(draw: Draw) -> None:
    _lstm_weights(draw)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in draw.made}
    dtype = str(draw.dtype)
    draw.constant("Wt", arrays["W"][0].T, dtype)
    draw.constant("Rt", arrays["R"][0].T, dtype)
    draw.constant("bias", arrays["B_"][0, : 4 * HIDDEN], dtype)


def scan_graph(dtype: str = "float32") -> bytes:
    """Latency: the answers of `lstm_graph`, as a loop with its input product before it."""
    draw = Draw(dtype)
    _scan_weights(draw)
    draw.constant("start", np.zeros((1, HIDDEN)), dtype)
    draw.constant("lowest", np.full((1, HIDDEN), -2.0), dtype)
    draw.constant("axis0", [0])
    draw.constant("axis1", [1])
    nodes = [
        node("Cast", ["a"], ["x"], to=TYPES[dtype]),
        node("MatMul", ["x", "Wt"], ["projected"]),
        node("Add", ["projected", "bias"], ["products"]),
        node("Unsqueeze", ["products", "axis1"], ["steps"]),
        node("Scan", ["start", "start", "lowest", "steps"], ["h_end", "c_end", "pooled"],
             name="loop", body=_scan_body(dtype, masked=False), num_scan_inputs=1),
        *head_nodes("pooled"),
    ]  # fmt: skip
    return model_bytes(nodes, [info("a", "T_a", 5)], [info("logits", CLASSES)], draw)


def masked_scan_graph(dtype: str = "float32") -> bytes:
    """Throughput: `a` (B, T_a, 5) and `a_lengths` (B,) -> logits (B, 4); frames past the end are
    masked by Range < lengths."""
    draw = Draw(dtype)
    _scan_weights(draw)
    counts = {"hidden": [HIDDEN], "axis0": [0], "axes02": [0, 2], "axes12": [1, 2]}
    for name, values in {**counts, "zero": 0, "one": 1}.items():
        draw.constant(name, values)
    start, lowest = (numpy_helper.from_array(np.array([x], dtype)) for x in (0.0, -2.0))
    nodes = [
        node("Cast", ["a"], ["x"], to=TYPES[dtype]),
        node("MatMul", ["x", "Wt"], ["projected"]),
        node("Add", ["projected", "bias"], ["products"]),
        node("Transpose", ["products"], ["steps"], perm=[1, 0, 2]),
        node("Shape", ["a"], ["rows"], start=0, end=1),
        node("Concat", ["rows", "hidden"], ["state_shape"], axis=0),
        node("ConstantOfShape", ["state_shape"], ["start"], value=start),
        node("ConstantOfShape", ["state_shape"], ["lowest"], value=lowest),
        node("Shape", ["a"], ["times"], start=1, end=2),
        node("Squeeze", ["times", "axis0"], ["time"]),
        node("Range", ["zero", "time", "one"], ["index"]),
        node("Unsqueeze", ["index", "axes12"], ["index3"]),
        node("Unsqueeze", ["a_lengths", "axes02"], ["lengths3"]),
        node("Less", ["index3", "lengths3"], ["within_all"]),
        node("Scan", ["start", "start", "lowest", "steps", "within_all"],
             ["h_end", "c_end", "pooled"], name="loop",
             body=_scan_body(dtype, masked=True), num_scan_inputs=2),
        *head_nodes("pooled", batched=True),
    ]  # fmt: skip
    inputs = [info("a", "B", "T_a", 5), info("a_lengths", "B", dtype="int64")]
    return model_bytes(nodes, inputs, [info("logits", "B", CLASSES)], draw)


def step_graph() -> bytes:
    """Step of an LSTM: `frames` (B, N, 5) and states `hidden`, `cell`, `maximum` (B, 8) -> the next
    ones and `pooled`."""
    draw = Draw()
    _lstm_weights(draw)
    draw.constant("axis0", [0])
    draw.constant("axis1", [1])
    nodes = [
        node("Transpose", ["frames"], ["steps"], perm=[1, 0, 2]),
        node("Unsqueeze", ["hidden", "axis0"], ["h"]),
        node("Unsqueeze", ["cell", "axis0"], ["c"]),
        node("LSTM", ["steps", "W", "R", "B_", "", "h", "c"], ["y", "h_end", "c_end"],
             name="rnn", hidden_size=HIDDEN),
        node("Squeeze", ["h_end", "axis0"], ["next_hidden"]),
        node("Squeeze", ["c_end", "axis0"], ["next_cell"]),
        node("Squeeze", ["y", "axis1"], ["seen"]),
        node("ReduceMax", ["seen", "axis0"], ["highest"], keepdims=0),
        node("Max", ["highest", "maximum"], ["pooled"]),
    ]  # fmt: skip
    states = [info(name, "B", HIDDEN) for name in ("hidden", "cell", "maximum")]
    outputs = [info(name, "B", HIDDEN) for name in ("pooled", "next_hidden", "next_cell")]
    return model_bytes(nodes, [info("frames", "B", "N", 5), *states], outputs, draw)
