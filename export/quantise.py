"""8 bits, by ONNX Runtime's own quantiser: dynamic for its CPU, static Q/DQ pairs for TensorRT."""

from __future__ import annotations

import logging
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

Feed = Mapping[str, NDArray[Any]]
PRODUCTS = ("MatMul", "Gemm")
DYNAMIC = ("LSTM", *PRODUCTS)
"""Operators that ONNX Runtime's CPU computes in 8 bits faster than in float32."""
STATIC = ("Conv", *PRODUCTS)
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


def quantise_dynamic(model: onnx.ModelProto, groups: Sequence[str]) -> onnx.ModelProto:
    """The model with some groups of operators in 8 bits, for ONNX Runtime on a CPU.

    Products have unsigned weights and LSTMs, which know only signed ones, 7 bits: on x86 without
    VNNI the products of an unsigned and a signed byte are added in 16 bits, and saturate.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    signed, unsigned = QuantType.QInt8, QuantType.QUInt8
    every = operator_groups(model, DYNAMIC)
    nodes = [name for group in groups for name in every[group].nodes]
    kinds = {node.name: node.op_type for node in model.graph.node}
    for operators, weight_type, reduced in ((("LSTM",), signed, True), (PRODUCTS, unsigned, False)):
        chosen = [name for name in nodes if kinds[name] in operators]
        if not chosen:
            continue
        # The quantiser turns a Gemm into a MatMul of another name before it looks for its own.
        names = [*chosen, *(f"{name}_MatMul" for name in chosen)]
        with _files(model) as (source, target):
            quantize(
                source,
                target,
                per_channel=True,
                op_types_to_quantize=list(operators),
                nodes_to_quantize=names,
                weight_type=weight_type,
                reduce_range=reduced,
            )
            model = onnx.load(target)
    return model


def quantise_static(
    model: onnx.ModelProto, groups: Sequence[str], feeds: Sequence[Feed]
) -> onnx.ModelProto:
    """The model with Q/DQ pairs at inputs and weights of some groups of operators, for TensorRT.

    Symmetric, since TensorRT knows no zero points; biases stay as they are, since it refuses
    them in 32-bit integers; LSTMs are left alone, since it has none in 8 bits. feeds: inputs that
    show the ranges of activations.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds: Iterator[Feed] = iter(feeds)

        def get_next(self) -> Any:
            return next(self._feeds, None)

    every = operator_groups(model, STATIC)
    with _files(model) as (source, target):
        quantize(
            source,
            target,
            Reader(),
            nodes_to_quantize=[name for group in groups for name in every[group].nodes],
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(STATIC),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                # An output that is not multiplied again would lose bits for nothing.
                "OpTypesToExcludeOutputQuantization": list(STATIC),
            },
        )
        return onnx.load(target)


@contextmanager
def _files(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Places for the quantiser, which works on files and tells about itself in the root log."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float.onnx", Path(folder) / "quantised.onnx"
            onnx.save(model, source)
            yield str(source), str(target)
    finally:
        logging.disable(previous)
