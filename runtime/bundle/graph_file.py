"""Graph file: what an ONNX file says of itself, read without onnx and before any engine sees it.

The hash of the manifest covers the file alone, so weights in another file are refused; and a graph
is the one that the manifest describes only if both say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ..modality import Modality

if TYPE_CHECKING:
    from .manifest import GraphEntry, Manifest, ModalitySpec


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output of a graph."""

    name: str
    dtype: str
    """`float32` or `int64`."""
    shape: tuple[int | str, ...]
    """A name stands for any size, the same wherever it occurs: `B` utterances, `T_a` frames."""


@dataclass(frozen=True)
class GraphFile:
    """What a file says of itself."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]
    refused: tuple[str, ...]
    """What no graph of ours has: weights in another file, foreign operators, control flow."""


# Numbers of fields in onnx.proto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_GRAPH, _METADATA, _TRAINING, _FUNCTIONS = 7, 14, 20, 25
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _SPARSE_INITIALIZER = 1, 5, 11, 12, 15
_OP_TYPE, _ATTRIBUTE, _DOMAIN = 4, 5, 7
_TENSORS, _GRAPHS, _SPARSE_TENSORS = (5, 10), (6, 11), (22, 23)
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_TYPES = {1: "float32", 7: "int64"}
_UNKNOWN = "?"
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_LOOP = "Scan"

Value = int | memoryview


def read_graph_file(content: bytes) -> GraphFile:
    """Read an ONNX file; ValueError where it is none."""
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    metadata: dict[str, str] = {}
    refused: dict[str, None] = {}
    graphs = 0
    for field, value in _fields(memoryview(content)):
        if field == _GRAPH:
            graphs += 1
            for inner, part in _fields(_bytes(value)):
                if inner in (_INPUT, _OUTPUT):
                    (inputs if inner == _INPUT else outputs).append(_tensor_spec(_bytes(part)))
            refused |= dict.fromkeys(_refused(_bytes(value)))
        elif field == _METADATA:
            key, text = _texts(_bytes(value), 1, 2)
            if key in metadata:
                raise ValueError(f"its metadata has {key} twice")
            metadata[key] = text
        elif field in (_TRAINING, _FUNCTIONS):
            refused["functions or training steps"] = None
    if graphs != 1:
        raise ValueError(f"it holds {graphs} graphs, wanted one")
    return GraphFile(tuple(inputs), tuple(outputs), metadata, tuple(refused))


def _refused(graph: memoryview, *, inside: bool = False) -> Iterator[str]:
    """inside: a graph within a loop."""
    for field, value in _fields(graph):
        if field == _NODE:
            yield from _refused_of_node(_bytes(value), inside)
        elif field == _INITIALIZER:
            yield from _external(_bytes(value))
        elif field == _SPARSE_INITIALIZER:
            yield "sparse weights"


def _refused_of_node(node: memoryview, inside: bool) -> Iterator[str]:
    kind, domain = _texts(node, _OP_TYPE, _DOMAIN)
    if domain not in _DOMAINS:
        yield f"operator {domain}.{kind}"
    for field, attribute in _fields(node):
        if field != _ATTRIBUTE:
            continue
        for inner, value in _fields(_bytes(attribute)):
            if inner in _TENSORS:
                yield from _external(_bytes(value))
            elif inner in _SPARSE_TENSORS:
                yield "sparse weights"
            elif inner in _GRAPHS:
                if kind != _LOOP or inside:
                    yield f"control flow ({kind})"
                else:
                    yield from _refused(_bytes(value), inside=True)


def _external(tensor: memoryview) -> Iterator[str]:
    for field, value in _fields(tensor):
        if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value):
            yield "weights in another file"


def _tensor_spec(value: memoryview) -> TensorSpec:
    name, kind, shape = "", 0, []
    for field, part in _fields(value):
        if field == 1:
            name = str(_bytes(part), "utf-8")
        elif field == 2:
            for tensor in _all(_bytes(part), 1):
                for inner, found in _fields(tensor):
                    if inner == 1 and isinstance(found, int):
                        kind = found
                    elif inner == 2:
                        shape += [_size(dimension) for dimension in _all(_bytes(found), 1)]
    return TensorSpec(name=name, dtype=_TYPES.get(kind, f"type {kind}"), shape=tuple(shape))


def _size(dimension: memoryview) -> int | str:
    size: int | str = _UNKNOWN
    for field, value in _fields(dimension):
        if field == 1 and isinstance(value, int):
            size = value
        elif field == 2:
            size = str(_bytes(value), "utf-8")
    return size


def _texts(message: memoryview, *fields: int) -> list[str]:
    found = dict.fromkeys(fields, "")
    for field, value in _fields(message):
        if field in found:
            found[field] = str(_bytes(value), "utf-8")
    return list(found.values())


def _all(message: memoryview, wanted: int) -> Iterator[memoryview]:
    return (_bytes(value) for field, value in _fields(message) if field == wanted)


def _bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("it is no ONNX file: a number where a part should be")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Numbers and values of the fields of a protobuf message, which are not read further."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _number(message, at)
        kind = tag & 7
        if kind == 0:
            number, at = _number(message, at)
            yield tag >> 3, number
            continue
        size = 8 if kind == 1 else 4 if kind == 5 else -1
        if kind == 2:
            size, at = _number(message, at)
        if size < 0 or at + size > end:
            raise ValueError("it is no ONNX file, or cut off")
        yield tag >> 3, message[at : at + size]
        at += size


def _number(message: memoryview, at: int) -> tuple[int, int]:
    found = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        found, at, shift = found | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return found, at
    raise ValueError("it is no ONNX file, or cut off")


def check_graph_file(entry: GraphEntry, manifest: Manifest, found: GraphFile) -> dict[str, str]:
    """What is wrong with a graph, against its entry and the entry against the rest of the manifest.

    Per thing that was looked at what is wrong; empty where nothing is.
    """
    checks: dict[str, Iterator[str]] = {
        "contents": (f"{what}, which no graph of a bundle has" for what in found.refused),
        "inputs": _differences(found.inputs, entry.inputs),
        "outputs": _differences(found.outputs, entry.outputs, derived=True),
        "metadata": _metadata(entry, manifest, found.metadata),
        "sizes": _sizes(entry, manifest),
    }
    return {what: "; ".join(wrong) for what, wrong in checks.items()}


def _differences(
    found: Sequence[TensorSpec], wanted: Sequence[TensorSpec], *, derived: bool = False
) -> Iterator[str]:
    """derived: sizes that the exporter worked out, and may have left open."""
    if [spec.name for spec in found] != [spec.name for spec in wanted]:
        names = [", ".join(spec.name for spec in specs) for specs in (found, wanted)]
        yield f"got {names[0]}; the manifest says {names[1]}"
        return
    for got, want in zip(found, wanted, strict=True):
        if got.dtype != want.dtype or not _same_shape(got.shape, want.shape, derived=derived):
            yield f"{_text(got)}; the manifest says {_text(want)}"


def _same_shape(found: Sequence[int | str], wanted: Sequence[int | str], *, derived: bool) -> bool:
    if len(found) != len(wanted):
        return False
    for got, want in zip(found, wanted, strict=True):
        if isinstance(got, int) != isinstance(want, int):
            if not (derived and isinstance(want, int)):
                return False
        elif isinstance(got, int) and got != want:
            return False
    return True


def graph_metadata(
    labels: Sequence[str],
    prior: Sequence[float] | None,
    modalities: Mapping[Modality, ModalitySpec],
    checkpoint_sha256: str,
) -> dict[str, str]:
    """What every graph says of the bundle that it belongs to, as strings.

    Where graphs have the same inputs, only this and their answers tell them apart.
    """
    told: dict[str, Any] = {"labels": labels, "prior": prior}
    for modality, spec in modalities.items():
        told[f"modality_{modality}"] = {
            "dim": spec.dim, "minimum_length": spec.minimum_length, "features": spec.features,
            "frame_rate": spec.frame_rate, "normalised": spec.normalised,
        }  # fmt: skip
    texts = {name: msgspec.json.encode(content).decode() for name, content in told.items()}
    return texts | {"checkpoint_sha256": checkpoint_sha256}


def _metadata(entry: GraphEntry, manifest: Manifest, found: Mapping[str, str]) -> Iterator[str]:
    wanted = {
        "subject": entry.subject, "shape": entry.shape, "precision": entry.precision,
        "recurrence": entry.recurrence,
        **graph_metadata(
            manifest.labels, manifest.prior, manifest.modalities, manifest.checkpoint.sha256
        ),
    }  # fmt: skip
    for name, value in wanted.items():
        got = found.get(name)
        if got != value:
            yield f"the graph says {name} {got or 'nothing'}, the manifest says {value}"


def _sizes(entry: GraphEntry, manifest: Manifest) -> Iterator[str]:
    """An entry must not contradict what the manifest says of modalities and labels."""
    shapes = {spec.name: spec.shape for spec in (*entry.inputs, *entry.outputs) if spec.shape}
    widths = {name: shape[-1] for name, shape in shapes.items()}
    if entry.pattern is not None and widths.get("logits") != len(manifest.labels):
        yield f"{widths.get('logits')} logits for {len(manifest.labels)} labels"
    for name, modality in _frames_of(entry):
        spec = manifest.modalities.get(modality)
        if spec is None:
            yield f"the manifest knows no modality {modality}"
        elif widths.get(name) != spec.dim:
            yield f"input {name} is {widths.get(name)} wide, modality {modality} is {spec.dim}"
    for state in entry.states:
        given = shapes.get(state.name)
        if given is None or state.output not in shapes:
            yield f"state {state.name} is no input or output"
        elif len(given) != len(state.initial_shape) or any(
            size != wanted
            for size, wanted in zip(state.initial_shape, given, strict=True)
            if isinstance(wanted, int) or size != 0
        ):
            yield f"state {state.name} begins as {state.initial_shape}, its input is {given}"


def _frames_of(entry: GraphEntry) -> list[tuple[str, Modality]]:
    """The inputs that take frames, with their modalities."""
    if entry.shape == "step" and entry.modality is not None:
        return [("frames", entry.modality)]
    if entry.shape in ("latency", "throughput") and entry.pattern is not None:
        return [(modality.value, modality) for modality in entry.pattern]
    return []


def _text(spec: TensorSpec) -> str:
    return f"{spec.name} is {spec.dtype} ({', '.join(str(size) for size in spec.shape)})"
