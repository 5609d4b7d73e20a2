"""Small ONNX graphs without recurrence, good ones and those that TensorRT does not take."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto
from small_pieces import (
    CLASSES,
    DIMS,
    HIDDEN,
    KERNELS,
    TYPES,
    Draw,
    head_nodes,
    info,
    model_bytes,
    node,
)

from ifmmin.runtime.manifest import StateSpec
from ifmmin.runtime.modality import Modality

CHANNELS = 6


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
        node("Cast", ["t"], ["x"], to=TYPES[dtype]),
        node("Unsqueeze", ["x", "axes01"], ["image"]),
        *_convolutions(draw, "image"),
        node("Relu", ["joined"], ["pooled"]),
        *head_nodes("pooled"),
    ]
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
