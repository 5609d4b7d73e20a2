"""The yardstick: a graph of fixed weights of our graphs' kind and size, the same in every version.

It takes turns with what is measured. Whatever becomes of its times between two runs, the machine or
ONNX Runtime did it; no code of ours runs in it. Peers tell the same, but less well: on a shared
machine they are slowed down otherwise than ours, being ten times larger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.modality import Modality, Pattern

if TYPE_CHECKING:
    import onnx

_EMBEDDING = 128
_CHAIN = (128, 64, 128, 256, 256)
_BLOCKS = 5
_CLASSES = 4
_OPSET = 17


def yardstick_bytes(dims: Mapping[Modality, int], pattern: Pattern) -> bytes:
    """An ONNX file: (T, D) per modality, an LSTM or a product with its maximum over time each, then
    thirty small layers -> `logits` (1, 4). Needs the package onnx."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def weight(*shape: int) -> str:
        values = rng.standard_normal(shape) * np.sqrt(2 / shape[-1])  # nothing dies out or explodes
        name = f"w{len(weights)}"
        weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def add(operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"n{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    weights.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    embedded = []
    for modality in pattern:
        dim = dims[modality]
        if modality == Modality.T:
            heard = add("MatMul", modality.value, weight(dim, 12 * _EMBEDDING))
            pooled = add("ReduceMax", heard, axes=[0], keepdims=1)
            embedded.append(add("Gemm", pooled, weight(_EMBEDDING, 12 * _EMBEDDING), transB=1))
            continue
        frames = add("Unsqueeze", modality.value, "one")
        inputs = weight(1, 4 * _EMBEDDING, dim), weight(1, 4 * _EMBEDDING, _EMBEDDING)
        heard = add("LSTM", frames, *inputs, hidden_size=_EMBEDDING)
        pooled = add("ReduceMax", heard, axes=[0, 1], keepdims=0)
        embedded.append(pooled)
    value = add("Concat", *embedded, axis=1) if len(embedded) > 1 else embedded[0]
    width = _EMBEDDING * len(embedded)
    for size in (256, *_CHAIN * _BLOCKS):
        value = add("Relu", add("Gemm", value, weight(size, width), transB=1))
        width = size
    add("Gemm", value, weight(_CLASSES, width), output="logits", transB=1)
    given = [helper.make_tensor_value_info(m.value, TensorProto.FLOAT, [None, dims[m]])
             for m in pattern]  # fmt: skip
    said = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, _CLASSES])]
    graph = helper.make_graph(nodes, "yardstick", given, said, weights)
    opset = [helper.make_opsetid("", _OPSET)]
    made: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return made


def open_yardstick(
    dims: Mapping[Modality, int], pattern: Pattern, threads: int
) -> Callable[[Mapping[Modality, NDArray[np.float32]]], NDArray[np.float32]]:
    """What runs it in a session of its own. ImportError without onnx or onnxruntime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(
        yardstick_bytes(dims, pattern), options, providers=["CPUExecutionProvider"]
    )

    def run(features: Mapping[Modality, NDArray[np.float32]]) -> NDArray[np.float32]:
        outputs: Any = session.run(None, {m.value: features[m] for m in pattern})
        logits: NDArray[np.float32] = outputs[0]
        return logits

    return run
