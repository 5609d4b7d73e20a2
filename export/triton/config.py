"""Model configurations of Triton, as text, and what a graph says to them.

That Triton calls a model READY proves little: it loads one whose outputs have other dimensions than
the configuration says. So every configuration is held against its graph here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ifmmin.runtime.errors import BundleError

Config = Mapping[str, Any]
_TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}
"""By the name of a graph's tensor."""
_TENSOR = re.compile(
    r'^(input|output) \{\n  name: "(\w+)"\n  data_type: (\w+)\n  dims: \[([-\d, ]*)\]$',
    re.MULTILINE,
)


class Word(str):
    """A name of an enumeration, which stands without quotes."""

    __slots__ = ()


def to_text(config: Config, indent: str = "") -> str:
    """A configuration in protobuf's text format; lists of mappings are repeated messages."""
    lines = []
    for name, value in config.items():
        for one in value if isinstance(value, list) and value and _is_message(value) else [value]:
            if isinstance(one, Mapping):
                inside = to_text(one, indent + "  ")
                lines.append(f"{indent}{name} {{\n{inside}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_scalar(one)}\n")
    return "".join(lines)


def _is_message(values: Sequence[Any]) -> bool:
    return isinstance(values[0], Mapping)


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_scalar, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Word) or not isinstance(value, str):
        return str(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def tensors_of(graph: Any, batched: bool) -> dict[str, list[dict[str, Any]]]:
    """Inputs and outputs of a graph, an ONNX Runtime session, as a configuration has them.

    batched: its first dimension is that of the batch, which Triton leaves out.
    """
    return {
        "input": [_tensor(one, batched) for one in graph.get_inputs()],
        "output": [_tensor(one, batched) for one in graph.get_outputs()],
    }


def _tensor(one: Any, batched: bool) -> dict[str, Any]:
    dtype = {"tensor(float)": "float32", "tensor(int64)": "int64"}[one.type]
    dims = [size if isinstance(size, int) else -1 for size in one.shape][batched:]
    told = {"name": one.name, "data_type": Word(_TYPES[dtype]), "dims": dims or [1]}
    # One number for each of a batch: Triton has no tensors without dimensions.
    return told if dims else told | {"reshape": {"shape": []}}


def require_fitting(text: str, graph: Any, batched: bool) -> None:
    """BundleError unless a configuration has the names, types and dimensions of a graph."""
    found: set[tuple[str, ...]] = {
        (kind, name, data_type, dims.replace(" ", ""))
        for kind, name, data_type, dims in _TENSOR.findall(text)
    }
    wanted: set[tuple[str, ...]] = {
        (kind, one["name"], str(one["data_type"]), ",".join(map(str, one["dims"])))
        for kind, tensors in tensors_of(graph, batched).items()
        for one in tensors
    }
    if found != wanted:
        raise BundleError(
            f"the configuration says {_shown(found - wanted)}, the graph {_shown(wanted - found)}"
        )


def _shown(tensors: set[tuple[str, ...]]) -> str:
    return "; ".join(f"{kind} {name} {t} [{dims}]" for kind, name, t, dims in sorted(tensors))
