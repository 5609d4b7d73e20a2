"""Reads graphs with the package onnx, which a device that only runs bundles does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ifmmin.runtime.check import one_line
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.manifest import GraphEntry

if TYPE_CHECKING:
    import onnx


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
