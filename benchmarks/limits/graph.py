"""Graphs read with the package onnx: axes, inputs, and which part of the network a node is of.

A device that only runs bundles does not have the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ifmmin.runtime.errors import InputError, one_line
from ifmmin.runtime.manifest import GraphEntry

if TYPE_CHECKING:
    import onnx

HEAD = "head"
_FIRST_LAYERS = frozenset({"invariant", "entry"})
"""The head's first layers, in graphs that keep them apart per modality: `/a/entry/...`."""


def load_onnx() -> Any:
    """The package. Raises InputError with the cure where it is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise InputError(
            f"limits and splits are read off the graphs with the package onnx, which does not load "
            f"here ({one_line(error)}); run pip install onnx, or do without them"
        ) from error
    return onnx


def read_graph(content: bytes) -> onnx.ModelProto:
    """The model in the bytes of a file. Raises InputError without onnx."""
    model: onnx.ModelProto = load_onnx().load_from_string(content)
    return model


def axis_sizes(lengths: dict[str, int], batch: int = 1) -> dict[str, int]:
    """Sizes of the free axes of a latency or throughput graph.

    lengths: frames per modality letter, of the longest utterance of a batch.
    """
    return {"B": batch, **{f"T_{letter}": frames for letter, frames in lengths.items()}}


def input_owners(entry: GraphEntry) -> dict[str, str]:
    """Per input of a graph the letter of the modality that it belongs to."""
    if entry.modality is not None:
        return {spec.name: str(entry.modality) for spec in entry.inputs}
    # `a`, and `a_lengths` beside it in a throughput graph.
    return {spec.name: spec.name.partition("_")[0] for spec in entry.inputs}


def node_parts(graph: onnx.GraphProto, owners: Mapping[str, str]) -> dict[str, str]:
    """The part of every node that depends on an input, by the name of its first output.

    An encoder is what reaches from the input of one modality to its embedding. All that depends on
    several modalities, is named as the head's, or follows such a node, is the head; so a graph of
    one modality has two parts as well. owners: per input the letter of its modality.
    """
    reached = {value.name: owners[value.name] for value in graph.input}
    parts = {}
    for node in graph.node:
        read = {reached[name] for name in node.input if name in reached}
        if not read:
            continue  # a constant
        part = HEAD if len(read) > 1 or _is_of_head(node.name) else read.pop()
        parts[node.output[0]] = part
        reached.update(dict.fromkeys(node.output, part))
    return parts


def _is_of_head(name: str) -> bool:
    """`/head/rest/chain/Add`, or `/a/entry/Add`. ONNX Runtime puts `fused ` before some names."""
    scope, *rest = name.removeprefix("fused ").strip("/").split("/")
    return bool(rest) and (scope == HEAD or rest[0] in _FIRST_LAYERS)
