"""What small ONNX graphs of tests are made of, and what a manifest would say of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ifmmin.runtime.manifest import GraphEntry, MissingSpec, ModalitySpec, StateSpec, TensorSpec
from ifmmin.runtime.modality import Modality

HIDDEN, CLASSES = 8, 4
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
