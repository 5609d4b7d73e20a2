"""Groups of operators that have 8 bits together or not at all, and graphs that show values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper

from ifmmin.runtime.backends import Runner

Inputs = Mapping[str, NDArray[Any]]
Load = Callable[[onnx.ModelProto], Runner]
DYNAMIC = ("LSTM", "MatMul", "Gemm")
"""Operators that ONNX Runtime's CPU computes in 8 bits faster than in float32."""
STATIC = ("Conv", "MatMul", "Gemm")
"""Operators that TensorRT computes in 8 bits."""


@dataclass
class Group:
    """Operators of one part of the network, which are quantised together or not at all."""

    nodes: list[str] = field(default_factory=list)
    weights: int = 0
    """Values that take a quarter of the bytes in 8 bits."""


def operator_groups(model: onnx.ModelProto, operators: Sequence[str]) -> dict[str, Group]:
    """Nodes that can compute in 8 bits, by the part of the network they belong to.

    The same network gives the same names in its latency, throughput and head graphs.
    """
    groups: dict[str, Group] = {}
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1]
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in weights}
    for node in model.graph.node:
        # Weights are the second input, of an LSTM the second and third.
        size = sum(sizes.get(name, 0) for name in node.input[1:3] if name)
        if node.op_type in operators and size:
            group = groups.setdefault(group_name(node.name), Group())
            group.nodes.append(node.name)
            group.weights += size
    return groups


def group_name(node: str) -> str:
    """`/head/rest/chain/encoders.0/linears.1/Gemm` -> `chain.encoders`."""
    parts = [re.sub(r"\.\d+$", "", part) for part in node.strip("/").split("/")[:-1]]
    kept = [part for part in parts if part not in ("head", "rest", "linears", "summary", "encoder")]
    return ".".join(kept) or node.strip("/")


class WithIntermediates:
    """A graph that gives some values, also inputs and what is no output, with every call."""

    def __init__(self, model: onnx.ModelProto, names: Collection[str], load: Load) -> None:
        made = onnx.ModelProto()
        made.CopyFrom(model)
        given = {value.name for value in made.graph.input}
        self._outputs = len(made.graph.output)
        self._more = sorted(set(names) - given)
        made.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in self._more)
        self._run = load(made)

    def __call__(self, inputs: Inputs) -> dict[str, NDArray[Any]]:
        """The values by name."""
        more = self._run(inputs)[self._outputs :]
        return {**inputs, **dict(zip(self._more, more, strict=True))}
