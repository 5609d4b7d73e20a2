"""Which values of a graph do not depend on its inputs, and the weights behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ifmmin.benchmarks.limits.values import Value

if TYPE_CHECKING:
    import onnx


def find_constants(
    graph: onnx.GraphProto, values: Mapping[str, Value], prefix: str = ""
) -> dict[str, dict[str, int]]:
    """Per constant value the bytes of the weights it is made of; none for indices and the like.

    What nodes compute from constants alone is computed when a graph is loaded. Their result takes
    the bytes of what it is made of, or its own where these are fewer: an engine may keep either.
    prefix: of the names of weights, of which two loops may have the same.
    """
    found = {
        tensor.name: _own(prefix + tensor.name, values[tensor.name]) for tensor in graph.initializer
    }
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = _own(prefix + node.output[0], values[node.output[0]])
        elif node.input and all(name in found for name in node.input if name):
            sources = {k: n for name in node.input if name for k, n in found[name].items()}
            for name in node.output:
                own = _own(prefix + name, values[name]) if name else {}
                found[name] = min(own, sources, key=lambda weights: sum(weights.values()))
    return found


def _own(name: str, value: Value) -> dict[str, int]:
    return {name: value.bytes} if value.holds_weights else {}
