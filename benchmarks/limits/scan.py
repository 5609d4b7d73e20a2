"""The body of an ONNX Scan as a graph of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ifmmin.benchmarks.limits.graph import load_onnx
from ifmmin.benchmarks.limits.values import Value, all_values

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Body:
    """What a Scan does in every step."""

    model: onnx.ModelProto
    values: dict[str, Value]
    """Of one step."""
    trips: int
    """Steps in one call."""
    outer: tuple[str, ...]
    """Values of the graph around it that it reads; inputs of `model`."""


def body_of(model: onnx.ModelProto, node: onnx.NodeProto, values: Mapping[str, Value]) -> Body:
    """The body of a Scan of `model`. values: of the graph around it."""
    helper = load_onnx().helper
    attributes = {given.name: helper.get_attribute_value(given) for given in node.attribute}
    graph, sequences = attributes["body"], attributes["num_scan_inputs"]
    states = len(node.input) - sequences
    axes = attributes.get("scan_input_axes") or [0] * sequences
    inputs, trips = {}, 0
    for index, (own, name) in enumerate(zip(graph.input, node.input, strict=True)):
        value = values[name]
        if index >= states:
            axis = axes[index - states] % len(value.shape)
            trips = value.shape[axis]
            value = Value((*value.shape[:axis], *value.shape[axis + 1 :]), value.dtype)
        inputs[own.name] = value
    outer = _outer(graph)
    inputs.update({name: values[name] for name in outer})
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    for name in outer:
        kind = helper.np_dtype_to_tensor_dtype(values[name].dtype)
        shape = values[name].shape
        alone.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    return Body(alone, all_values(alone, inputs), trips, outer)


def _outer(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Names that the body reads and nothing in it makes."""
    made = {value.name for value in (*graph.input, *graph.initializer)}
    made |= {name for node in graph.node for name in node.output}
    read = [name for node in graph.node for name in node.input if name and name not in made]
    return tuple(dict.fromkeys(read))
