"""Small ONNX graphs in the forms that the exporter writes, some of them ones that TensorRT refuses,
what a manifest would say of them, and graphs whose sizes are easy to count by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ifmmin.runtime.bundle import GraphEntry, MissingSpec, ModalitySpec, StateSpec, TensorSpec
from ifmmin.runtime.modality import Modality

HIDDEN, CLASSES, CHANNELS = 8, 4, 6
DIMS = {Modality.A: 5, Modality.V: 7, Modality.T: 11}
KERNELS = (3, 4, 5)
TYPES: dict[str, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
}
node = helper.make_node

MODALITIES = {
    modality: ModalitySpec(
        dim=dim,
        minimum_length=max(KERNELS) if modality is Modality.T else 1,
        verified_length=200,
        frame_rate={Modality.A: 10.0, Modality.V: 30.0, Modality.T: None}[modality],
        features="made",
        missing=MissingSpec(length=9, deviation=0.0, settled_at=9, tolerance=1e-6),
    )
    for modality, dim in DIMS.items()
}
"""What a manifest says of the modalities of these graphs."""


def entry_of(
    content: bytes, shape: str, subject: str, states: Sequence[StateSpec] = ()
) -> GraphEntry:
    """What a manifest says of a graph."""
    graph = onnx.load_from_string(content).graph
    return GraphEntry(
        shape=shape, subject=subject, precision="fp32", recurrence="lstm", file="graph.onnx",
        sha256="", bytes=len(content), opset=18, parity={}, states=tuple(states),
        inputs=tuple(map(_spec, graph.input)), outputs=tuple(map(_spec, graph.output)),
    )  # fmt: skip


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    names = {number: name for name, number in TYPES.items()}
    shape = tuple(dim.dim_param or int(dim.dim_value) for dim in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=names[tensor.elem_type], shape=shape)


class Draw:
    """Weights of one graph, by name, always the same."""

    def __init__(self, dtype: str = "float32") -> None:
        self.dtype = np.dtype(dtype)
        self.rng = np.random.default_rng(0)
        self.made: list[TensorProto] = []

    def weight(self, name: str, *shape: int) -> NDArray[np.floating]:
        values = self.rng.normal(0.0, 0.3, shape).astype(self.dtype)
        self.made.append(numpy_helper.from_array(values, name))
        return values

    def constant(self, name: str, values: Any, dtype: str = "int64") -> None:
        self.made.append(numpy_helper.from_array(np.array(values, dtype), name))


def model_bytes(
    nodes: Sequence[NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    draw: Draw,
    check: bool = True,
) -> bytes:
    """The file, with those of the drawn weights that it reads."""
    inner = [n for outer in nodes for attribute in outer.attribute for n in attribute.g.node]
    read = {name for n in [*nodes, *inner] for name in n.input}
    kept = [tensor for tensor in draw.made if tensor.name in read]
    graph = helper.make_graph(list(nodes), "small", list(inputs), list(outputs), kept)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets[: 1 if check else 2], ir_version=9)
    if check:
        onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def info(name: str, *shape: int | str, dtype: str = "float32") -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TYPES[dtype], shape)


def head_nodes(pooled: str, *, batched: bool = False) -> list[NodeProto]:
    """(B, HIDDEN) -> float32 logits (B, C), or (C,) of one utterance."""
    nodes = [
        node("Gemm", [pooled, "head_weight", "head_bias"], ["scores"], name="head", transB=1),
        node("Cast", ["scores"], ["logits" if batched else "row"], to=TensorProto.FLOAT),
    ]
    return nodes if batched else [*nodes, node("Squeeze", ["row", "axis0"], ["logits"])]


def _convolutions(draw: Draw, image: str) -> list[NodeProto]:
    """Convolutions over all of the features, maximum over time: (B, 1, T, 11) -> (B, 18)."""
    nodes: list[NodeProto] = []
    draw.constant("axis2", [2])
    for k in KERNELS:
        draw.weight(f"kernel{k}", CHANNELS, 1, k, DIMS[Modality.T])
        draw.weight(f"offset{k}", CHANNELS)
        nodes += [
            node("Conv", [image, f"kernel{k}", f"offset{k}"], [f"sums{k}"], name=f"conv{k}"),
            node("ReduceMax", [f"sums{k}", "axis2"], [f"highest{k}"], keepdims=0),
            node("Flatten", [f"highest{k}"], [f"flat{k}"], axis=1),
        ]
    nodes.append(node("Concat", [f"flat{k}" for k in KERNELS], ["joined"], axis=1))
    return nodes


def text_graph(dtype: str = "float32") -> bytes:
    """Latency: `t` (T_t, 11) -> convolutions of 3, 4 and 5 tokens -> logits (4,)."""
    draw = Draw(dtype)
    draw.weight("head_weight", CLASSES, CHANNELS * len(KERNELS))
    draw.weight("head_bias", CLASSES)
    draw.constant("axis0", [0])
    draw.constant("axes01", [0, 1])
    nodes = [
        node("Cast", ["t"], ["x"], to=TYPES[dtype]), node("Unsqueeze", ["x", "axes01"], ["image"]),
        *_convolutions(draw, "image"), node("Relu", ["joined"], ["pooled"]), *head_nodes("pooled"),
    ]  # fmt: skip
    return model_bytes(nodes, [info("t", "T_t", 11)], [info("logits", CLASSES)], draw)


def text_step_graph() -> bytes:
    """Step of a text: `frames` (B, N, 11), `tail` (B, S, 11) and `maximum` (B, 18) -> `pooled` and
    `next_tail` (B, 4, 11). S + N must be at least 5."""
    draw = Draw()
    draw.constant("axis1", [1])
    draw.constant("first", [1 - max(KERNELS)])
    draw.constant("end", [np.iinfo(np.int64).max])
    nodes = [
        node("Concat", ["tail", "frames"], ["x"], axis=1),
        node("Slice", ["x", "first", "end", "axis1"], ["next_tail"]),
        node("Unsqueeze", ["x", "axis1"], ["image"]),
        *_convolutions(draw, "image"),
        node("Max", ["joined", "maximum"], ["pooled"]),
    ]
    inputs = [info("frames", "B", "N", 11), info("tail", "B", "S", 11),
              info("maximum", "B", 18)]  # fmt: skip
    outputs = [info("pooled", "B", 18), info("next_tail", "B", "S_next", 11)]
    return model_bytes(nodes, inputs, outputs, draw)


TEXT_STATES = (
    StateSpec(name="tail", output="next_tail", initial=0.0, initial_shape=("B", 0, 11)),
    StateSpec(name="maximum", output="pooled", initial=0.0, initial_shape=("B", 18)),
)


def quantised_graph(*, quantised_bias: bool = False) -> bytes:
    """Head: `a` (B, 8) -> logits (B, 4) by a Gemm between QuantizeLinear and DequantizeLinear,
    symmetric, weights per channel; the bias is float32, or int32 which TensorRT does not take."""
    draw = Draw()
    draw.constant("scale", 0.05, "float32")
    draw.constant("zero", 0, "int8")
    draw.constant("weight", draw.rng.integers(-90, 90, (CLASSES, HIDDEN)), "int8")
    draw.constant("weight_scale", np.full(CLASSES, 0.01), "float32")
    draw.constant("zeros", np.zeros(CLASSES), "int8")
    nodes = [
        node("QuantizeLinear", ["a", "scale", "zero"], ["small"], name="quantise"),
        node("DequantizeLinear", ["small", "scale", "zero"], ["x"], name="dequantise"),
        node("DequantizeLinear", ["weight", "weight_scale", "zeros"], ["w"], axis=0, name="w_dq"),
    ]
    if quantised_bias:
        draw.constant("small_bias", np.arange(CLASSES), "int32")
        draw.constant("bias_scale", np.full(CLASSES, 0.0005), "float32")
        draw.constant("bias_zeros", np.zeros(CLASSES), "int32")
        nodes.append(node("DequantizeLinear", ["small_bias", "bias_scale", "bias_zeros"], ["bias"],
                          axis=0, name="bias_dq"))  # fmt: skip
    else:
        draw.weight("bias", CLASSES)
    nodes.append(node("Gemm", ["x", "w", "bias"], ["logits"], name="head", transB=1))
    return model_bytes(nodes, [info("a", "B", HIDDEN)], [info("logits", "B", CLASSES)], draw)


def dynamic_quantised_graph() -> bytes:
    """An operator that only ONNX Runtime has, as its dynamic quantisation of an LSTM makes it."""
    draw = Draw()
    draw.constant("W", np.ones((1, 5, 4 * HIDDEN)), "int8")
    draw.constant("R", np.ones((1, HIDDEN, 4 * HIDDEN)), "int8")
    draw.constant("scale", [0.1], "float32")
    draw.constant("zero", [0], "int8")
    draw.constant("axis1", [1])
    scales = ["scale", "zero", "scale", "zero"]
    nodes = [
        node("Unsqueeze", ["a", "axis1"], ["steps"]),
        node("DynamicQuantizeLSTM", ["steps", "W", "R", "", "", "", "", "", *scales], ["y"],
             name="rnn", domain="com.microsoft", hidden_size=HIDDEN),
    ]  # fmt: skip
    outputs = [info("y", "T_a", 1, 1, HIDDEN)]
    return model_bytes(nodes, [info("a", "T_a", 5)], outputs, draw, check=False)


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
        nodes.append(node("Where", ["fit_to_profile", "higher", "m"], ["next_m"]))
    states = [info(name, rows, HIDDEN, dtype=dtype) for name in "hcm"]
    slices = [info("product", rows, 4 * HIDDEN, dtype=dtype)]
    if masked:
        slices.append(helper.make_tensor_value_info("fit_to_profile", TensorProto.BOOL, [rows, 1]))
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


FLOAT = TensorProto.FLOAT
Axis = int | str


def graph_bytes(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[Axis]],
    weights: Mapping[str, NDArray[Any]],
    *,
    kind: int = FLOAT,
    outputs: Sequence[str] = ("y",),
) -> bytes:
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
