"""The graphs of a bundle in its model card: a table per shape, with what was measured of them."""

from __future__ import annotations

from collections.abc import Sequence

from ifmmin.export.card_sections import cell
from ifmmin.export.figures import MEASURED, measured, mega, without_empty
from ifmmin.runtime.console import markdown_table
from ifmmin.runtime.manifest import GraphEntry, Manifest

_SHAPES = {
    "latency": "One utterance",
    "throughput": "Batches, padded, with lengths",
    "step": "Streams: new frames of a modality",
    "summary": "Streams: what a modality adds to the answer",
    "head": "Streams: the answer",
}
_PRECISIONS = {
    "fp16": "`fp16`: weights and activations in 16 bits, for GPUs.",
    "int8": "`int8`: 8 bits as far as accuracy bears them, for ONNX Runtime on CPUs.",
    "int8-qdq": "`int8-qdq`: 8 bits in ranges fixed at export, for TensorRT.",
}
_SCAN = "`scan`: the recurrence as a loop with the input's projection before it, for TensorRT."


def graph_blocks(manifest: Manifest) -> list[str]:
    """Markdown blocks."""
    blocks = [
        "## Graphs",
        "Largest difference: of a logit, between the graph and the network in float64, over inputs "
        "of every length; beside it that of a probability. Agreement: answers with the same "
        "winning class.",
    ]
    notes = _notes(manifest.graphs)
    if notes:
        blocks.append("\n".join(f"- {note}" for note in notes))
    for shape, title in _SHAPES.items():
        entries = [entry for entry in manifest.graphs if entry.shape == shape]
        if entries:
            blocks += [f"### {title} (`{shape}`)", *_measured_on(entries), _graph_table(entries)]
    if manifest.engines:
        blocks += ["### Engines built ahead of time", _engines(manifest)]
    return blocks


def _notes(entries: Sequence[GraphEntry]) -> list[str]:
    used = {entry.precision for entry in entries}
    notes = [text for precision, text in _PRECISIONS.items() if precision in used]
    return [*notes, *([_SCAN] if any(e.recurrence == "scan" for e in entries) else [])]


def _graph_table(entries: Sequence[GraphEntry]) -> str:
    headers = ["file", *MEASURED]
    rows = [
        [
            f"`{entry.file}`",
            *measured(entry),
        ]
        for entry in entries
    ]
    return markdown_table(*without_empty(headers, rows))


def _measured_on(entries: Sequence[GraphEntry]) -> list[str]:
    """On which corpora accuracy was measured, where it was."""
    found = []
    for entry in entries:
        about = entry.evaluation or {}
        if {"corpus", "fold", "utterances"} <= about.keys():
            text = f"{cell(str(about['corpus']))}, fold {about['fold']}"
            found.append(f"{text} ({about['utterances']} utterances)")
    if not found:
        return []
    corpora = "; ".join(dict.fromkeys(found))
    return [f"WA, UA and ECE on the test part of {corpora}; in brackets the network's."]


def _engines(manifest: Manifest) -> str:
    headers = ["file", "MB", "engine", "targets", "built from"]
    rows = [
        [f"`{e.file}`", mega(e.bytes), f"{e.engine} {e.version}", " ".join(e.targets), e.graph]
        for e in manifest.engines
    ]
    return markdown_table(*without_empty(headers, rows))
