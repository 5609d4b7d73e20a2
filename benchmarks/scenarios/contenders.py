"""Contenders: a call with what its row says of it, and the reference workload."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.modality import Modality, Pattern

from .plan import Plan

if TYPE_CHECKING:
    import onnx

Features = dict[Modality, NDArray[np.float32]]
"""Raw features (T, D) of what is present."""


@dataclass(frozen=True)
class RunConfig:
    """What executes the answers."""

    backend: str
    precision: str
    threads: int


@dataclass(frozen=True)
class Contender:
    """A call, and what its row says of it."""

    name: str
    call: Callable[..., Any]
    """From what `ready` made to the answer; this is timed."""
    config: RunConfig
    ready: Callable[[Features, Mapping[Modality, int]], Any] = lambda features, _: features
    """Inputs of the call from features and from the lengths of what is missing; not timed."""
    placement: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    others: Sequence[Callable[..., Any]] = ()
    """The same call in further sessions: what a session drew, such as where its memory came to lie,
    moves a graph by some per cent for as long as it lives."""
    peer: bool = False
    """It runs another graph than the bundle's, whose accuracy was not measured."""

    def prepared(self, features: Features, lengths: Mapping[Modality, int]) -> Callable[[], Any]:
        """A call on prepared inputs, to be timed."""
        return partial(self.call, self.ready(features, lengths))

    def in_turns(
        self, features: Features, lengths: Mapping[Modality, int]
    ) -> Sequence[Callable[[], Any]]:
        """The same of every session."""
        inputs = self.ready(features, lengths)
        return [partial(call, inputs) for call in (self.call, *self.others)]


_EMBEDDING = 128
_CHAIN = (128, 64, 128, 256, 256)
_BLOCKS = 5
_CLASSES = 4
_OPSET = 17
SESSIONS = 3
"""Sessions of each contender in latencies; each round asks another one."""


def reference_bytes(dims: Mapping[Modality, int], pattern: Pattern) -> bytes:
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
    graph = helper.make_graph(nodes, "reference_workload", given, said, weights)
    opset = [helper.make_opsetid("", _OPSET)]
    made: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return made


def open_reference(
    dims: Mapping[Modality, int], pattern: Pattern, threads: int
) -> Callable[[Mapping[Modality, NDArray[np.float32]]], NDArray[np.float32]]:
    """What runs it in a session of its own. ImportError without onnx or onnxruntime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(
        reference_bytes(dims, pattern), options, providers=["CPUExecutionProvider"]
    )

    def run(features: Mapping[Modality, NDArray[np.float32]]) -> NDArray[np.float32]:
        outputs: Any = session.run(None, {m.value: features[m] for m in pattern})
        logits: NDArray[np.float32] = outputs[0]
        return logits

    return run


def run_configs(plan: Plan) -> list[RunConfig]:
    """Every combination that was asked for, by threads, then backends."""
    combined = product(plan.threads, plan.backends, plan.precisions)
    return [RunConfig(backend, precision, threads) for threads, backend, precision in combined]
