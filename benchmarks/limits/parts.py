"""Which node of a graph belongs to which part of the network: encoder a, v or t, or the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

HEAD = "head"
_FIRST_LAYERS = frozenset({"invariant", "entry"})
"""The head's first layers, in graphs that keep them apart per modality: `/a/entry/...`."""


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
