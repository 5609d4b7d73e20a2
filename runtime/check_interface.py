"""Whether a graph is the one that its manifest entry describes: names, types, sizes, metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ifmmin.runtime.check import Check
from ifmmin.runtime.errors import BackendUnavailable
from ifmmin.runtime.manifest import GraphEntry, Manifest, TensorSpec
from ifmmin.runtime.modality import Modality

_TYPES: dict[str, str] = {"tensor(float)": "float32", "tensor(int64)": "int64"}
_UNKNOWN = "?"


@dataclass(frozen=True)
class Interface:
    """What a graph file says of itself."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]


def read_interface(content: bytes) -> Interface:
    """Read a graph with ONNX Runtime, without making it fast: that takes milliseconds.

    Raises what ONNX Runtime raises of a graph that it cannot read, and BackendUnavailable.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(
            "ONNX Runtime is not installed; run pip install 'ifmmin[cpu]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return Interface(
        inputs=tuple(_spec(value) for value in session.get_inputs()),
        outputs=tuple(_spec(value) for value in session.get_outputs()),
        metadata=dict(session.get_modelmeta().custom_metadata_map),
    )


def check_interface(entry: GraphEntry, manifest: Manifest, found: Interface) -> list[Check]:
    """A graph against its entry, and the entry against the rest of the manifest."""
    return [
        _check("inputs", entry, _differences(found.inputs, entry.inputs)),
        _check("outputs", entry, _differences(found.outputs, entry.outputs, derived=True)),
        _check("metadata", entry, _metadata(entry, manifest, found.metadata)),
        _check("sizes", entry, _sizes(entry, manifest)),
    ]


def _check(what: str, entry: GraphEntry, wrong: Iterator[str]) -> Check:
    problems = list(wrong)
    return Check(entry.file, what, not problems, "; ".join(problems) or "as the manifest says")


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


def _metadata(entry: GraphEntry, manifest: Manifest, found: Mapping[str, str]) -> Iterator[str]:
    """Where graphs have the same inputs, only this and their answers tell them apart."""
    wanted = {
        "subject": entry.subject,
        "shape": entry.shape,
        "precision": entry.precision,
        "recurrence": entry.recurrence,
        "labels": ",".join(manifest.labels),
        "checkpoint_sha256": manifest.checkpoint.sha256,
    }
    for name, value in wanted.items():
        got = found.get(name)
        if got != value:
            yield f"the graph says {name} {got or 'nothing'}, the manifest says {value}"


def _sizes(entry: GraphEntry, manifest: Manifest) -> Iterator[str]:
    """An entry must not contradict what the manifest says of modalities and labels."""
    widths = {spec.name: spec.shape[-1] for spec in (*entry.inputs, *entry.outputs) if spec.shape}
    if "logits" in widths and widths["logits"] != len(manifest.labels):
        yield f"{widths['logits']} logits for {len(manifest.labels)} labels"
    for name, modality in _frames_of(entry):
        spec = manifest.modalities.get(modality)
        if spec is None:
            yield f"the manifest knows no modality {modality}"
        elif widths.get(name) != spec.dim:
            yield f"input {name} is {widths.get(name)} wide, modality {modality} is {spec.dim}"
    names = [state.name for state in entry.states] + [state.output for state in entry.states]
    for name in names:
        if name not in widths:
            yield f"state {name} is no input or output"


def _frames_of(entry: GraphEntry) -> list[tuple[str, Modality]]:
    """The inputs that take frames, with their modalities."""
    if entry.shape == "step" and entry.modality is not None:
        return [("frames", entry.modality)]
    if entry.shape in ("latency", "throughput") and entry.pattern is not None:
        return [(modality.value, modality) for modality in entry.pattern]
    return []


def _spec(value: Any) -> TensorSpec:
    shape = tuple(_UNKNOWN if size is None else size for size in value.shape)
    kind = str(value.type)
    return TensorSpec(name=value.name, dtype=_TYPES.get(kind, kind), shape=shape)


def _text(spec: TensorSpec) -> str:
    return f"{spec.name} is {spec.dtype} ({', '.join(str(size) for size in spec.shape)})"
