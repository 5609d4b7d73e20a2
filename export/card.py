"""The model card, README.md of a bundle: what its manifest says, for people."""

from __future__ import annotations

import json
import re

from ifmmin.export.card_graphs import graph_blocks
from ifmmin.export.card_sections import (
    input_blocks,
    limit_blocks,
    listed,
    present,
    training_blocks,
    use_blocks,
)
from ifmmin.export.provenance import provenance
from ifmmin.runtime.manifest import Manifest
from ifmmin.runtime.modality import ALL_PATTERNS, Modality

_LICENCES = (
    "mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "unlicense", "mpl-2.0", "openrail",
    "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0",
    "cc-by-nd-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0",
)  # fmt: skip
"""Identifiers that Hugging Face knows; any other text is a licence of its own there."""
_TASKS = {
    Modality.A: "audio-classification",
    Modality.V: "video-classification",
    Modality.T: "text-classification",
}
_PATTERNS = [str(pattern) for pattern in ALL_PATTERNS]
_SENSES = {Modality.A: "voice", Modality.V: "face", Modality.T: "words"}


def model_card(manifest: Manifest) -> str:
    """Markdown with the front matter of Hugging Face; the same text for the same manifest.

    What the manifest does not know is left out, with its column or sentence.
    """
    blocks = [
        _front_matter(manifest),
        *_opening(manifest),
        *input_blocks(manifest),
        *use_blocks(manifest),
        *graph_blocks(manifest),
        *training_blocks(manifest),
        *limit_blocks(manifest),
        *_closing(manifest),
    ]
    return "\n\n".join(blocks) + "\n"


def _front_matter(manifest: Manifest) -> str:
    """YAML; values that people wrote are quoted as JSON, which YAML takes."""
    lines = ["---", *_licence_lines(manifest.licence), "library_name: ifmmin"]
    lines.append(f"pipeline_tag: {_TASKS[present(manifest)[0]]}")
    tags = ["emotion-recognition", "multimodal", "missing-modality", "onnx"]
    model = json.dumps(manifest.checkpoint.model, ensure_ascii=False)
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), f"- {model}", "---"])


def _licence_lines(licence: str | None) -> list[str]:
    if licence is None:
        return []
    name = "-".join(licence.lower().split())
    if name in _LICENCES:
        return [f"license: {name}"]
    short = re.sub(r"[^a-z0-9.]+", "-", name).strip("-")[:60] or "own"
    return ["license: other", f"license_name: {json.dumps(short)}"]


def _opening(manifest: Manifest) -> list[str]:
    origin = manifest.checkpoint
    facts = provenance(origin).facts
    parts = [origin.model, *(facts[name] for name in ("corpus",) if name in facts)]
    senses = listed([_SENSES[m] for m in present(manifest)])
    subjects = sorted({e.subject for e in manifest.graphs if e.pattern}, key=_PATTERNS.index)
    missing = " when some of it may be missing" if len(subjects) > 1 else ""
    return [
        f"# Emotion recognition: {', '.join(parts)}",
        f"A network of the kind `{origin.model}` that recognises emotion from {senses}{missing}, "
        f"as {len(manifest.graphs)} ONNX graphs made for what is present "
        f"({', '.join(subjects)}), each compared with the network before it was written.",
        "## Classes",
        f"In the order of the logits: {', '.join(manifest.labels)}. Their softmax gives the "
        "probabilities.",
    ]


def _closing(manifest: Manifest) -> list[str]:
    stated = manifest.licence or (
        "Not stated: it follows the terms of the corpus it was trained on; ask whoever trained it."
    )
    tools = ", ".join(f"{name} {version}" for name, version in manifest.tools.items())
    return [
        "## Licence of the weights",
        stated,
        "## Verify",
        "Hashes, graphs and golden vectors, on the device at hand; with the checkpoint, every "
        "graph against the network again:",
        "```\nifmmin-bundle verify .\nifmmin-bundle verify . --checkpoint model.safetensors\n```",
        f"Checkpoint: sha256 `{manifest.checkpoint.sha256}`. Written by {tools}.",
    ]
