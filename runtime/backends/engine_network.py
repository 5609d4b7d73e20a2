"""Reads an ONNX graph into a strongly typed network of TensorRT."""

from __future__ import annotations

from typing import Any

from ifmmin.runtime.backends.engine_profile import Shape
from ifmmin.runtime.backends.tensorrt_log import Messages, logger_of, one_line
from ifmmin.runtime.errors import EngineError


def parse_graph(trt: Any, builder: Any, graph: bytes, messages: Messages) -> Any:
    """The network of an ONNX file; EngineError with the node that TensorRT cannot take."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger_of(trt))
    if not parser.parse(graph):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        reason = "; ".join(dict.fromkeys(map(_describe, errors))) or messages.reason
        if all(error.node() < 0 for error in errors):
            raise EngineError(f"the file is not an ONNX graph ({reason}); export the bundle again")
        raise EngineError(
            f"TensorRT cannot read the graph: {reason}; export it in another precision or "
            "recurrence, or run it with another backend"
        )
    if network.num_outputs == 0:  # an empty file is a valid ONNX file
        raise EngineError("the graph has no outputs; export the bundle again")
    return network


def _describe(error: Any) -> str:
    text = one_line(error.desc())
    if error.node() < 0:
        return text
    name = error.node_name()
    quoted = f" {name!r}" if name else ""
    return f"node {error.node()}{quoted} ({error.node_operator()}): {text}"


def input_shapes(network: Any) -> dict[str, Shape]:
    """Shapes of the inputs, with the graph's own names for what is open."""
    found: dict[str, Shape] = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        found[tensor.name] = tuple(
            int(size) if size >= 0 else tensor.get_dimension_name(axis) or f"{tensor.name}.{axis}"
            for axis, size in enumerate(tensor.shape)
        )
    return found
