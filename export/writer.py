"""Writes bundles: every graph proven first, then everything at once."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_safetensors

from ifmmin.export.graph import OPSET, to_onnx
from ifmmin.export.probes import Probe, draw_probes
from ifmmin.export.specialise import specialise
from ifmmin.export.verify import Comparison, compare
from ifmmin.runtime.atomic import atomic_directory, require_writable
from ifmmin.runtime.backends.onnx_runtime import OnnxRuntimeCpu
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.command import package_version
from ifmmin.runtime.console import progress
from ifmmin.runtime.errors import BundleError, OutputError
from ifmmin.runtime.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Golden,
    GraphEntry,
    Manifest,
    ModalitySpec,
    Origin,
)
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Pattern
from ifmmin.train.checkpoint import Header, load_checkpoint
from ifmmin.train.network import EmotionNetwork

GOLDEN_NAME = "golden.safetensors"
_GOLDEN_PROBES = (0, 5)
"""Which probes become golden vectors: the shortest input and an ordinary one."""

Tensors = dict[str, NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class ProvenGraph:
    """A graph with the comparison that it passed and its golden vectors."""

    content: bytes
    entry: GraphEntry
    comparison: Comparison
    golden: Tensors


def export_bundle(
    checkpoint: Path, patterns: Sequence[Pattern], out: Path, *, overwrite: bool = False
) -> list[ProvenGraph]:
    """Export the patterns of a checkpoint into the bundle at `out`.

    A bundle of the same checkpoint that stands there keeps its other patterns; one of another
    checkpoint is replaced with `overwrite` only, anything else in the way is refused. Raises
    CheckpointError, ParityError or OutputError, and then nothing is written.
    """
    network, header = load_checkpoint(checkpoint)
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    standing = _standing_bundle(out, sha256, overwrite=overwrite)
    require_writable(out)
    made = []
    with progress("export", len(patterns)) as advance:
        for pattern in patterns:
            made.append(prove_graph(network, pattern, sha256))
            advance(f"{pattern} {made[-1].comparison.max_difference:.1e}")
    with atomic_directory(out) as part:
        _write(part, header, sha256, made, standing)
    return made


def prove_graph(network: EmotionNetwork, pattern: Pattern, sha256: str) -> ProvenGraph:
    """Specialise, export, and compare with the network in float64; ParityError if it differs."""
    exact = copy.deepcopy(network).double().eval()
    dims = {m: network.config.features[m].dim for m in MODALITIES}
    metadata = {
        "name": f"ifmmin {pattern}",
        "pattern": str(pattern),
        "precision": "fp32",
        "labels": ",".join(network.config.labels),
        "checkpoint_sha256": sha256,
    }
    content = to_onnx(specialise(network, pattern), dims, metadata)
    probes = draw_probes(exact, pattern)
    comparison = compare(OnnxRuntimeCpu().load(content), pattern, probes)
    comparison.require()
    entry = GraphEntry(
        pattern=pattern,
        precision="fp32",
        shape="latency",
        file=f"{pattern}.onnx",
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        opset=OPSET,
        parity=dataclasses.asdict(comparison) | {"pattern": str(pattern)},
    )
    return ProvenGraph(content, entry, comparison, _golden(pattern, probes))


def _golden(pattern: Pattern, probes: Sequence[Probe]) -> Tensors:
    tensors: Tensors = {}
    for number, index in enumerate(_GOLDEN_PROBES):
        prefix = f"{pattern}/{number}"
        for modality, array in probes[index].features.items():
            tensors[f"{prefix}/{modality}"] = array
        tensors[f"{prefix}/logits"] = probes[index].logits.astype(np.float32)
    return tensors


def _standing_bundle(out: Path, sha256: str, *, overwrite: bool) -> Bundle | None:
    """The bundle at `out`, if there is one and graphs of this checkpoint may join it."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise OutputError(f"cannot write {out}: a file is in the way; choose another --out")
    if not any(out.iterdir()):
        return None
    if not (out / MANIFEST_NAME).exists():
        raise OutputError(f"{out} is in use by something that is no bundle; choose another --out")
    try:
        standing = Bundle(out)
    except BundleError as error:
        if overwrite:
            return None
        raise OutputError(f"{error}; add --overwrite or choose another --out") from error
    if standing.manifest.checkpoint.sha256 == sha256:
        return standing
    if overwrite:
        return None
    raise OutputError(
        f"{out} holds graphs of another checkpoint "
        f"({standing.manifest.checkpoint.sha256[:12]}...); add --overwrite or choose another --out"
    )


def _write(
    folder: Path,
    header: Header,
    sha256: str,
    made: Sequence[ProvenGraph],
    standing: Bundle | None,
) -> None:
    graphs = {graph.entry.pattern: graph.entry for graph in made}
    golden = {key: array for graph in made for key, array in graph.golden.items()}
    for graph in made:
        (folder / graph.entry.file).write_bytes(graph.content)
    if standing is not None:
        for entry in standing.manifest.graphs:
            if entry.pattern not in graphs:
                graphs[entry.pattern] = entry
                (folder / entry.file).write_bytes(standing.graph(entry.pattern))
        golden = {**standing.golden_tensors(), **golden}
    content = save_safetensors(golden)
    (folder / GOLDEN_NAME).write_bytes(content)
    config = header.config
    manifest = Manifest(
        schema=SCHEMA_VERSION,
        labels=config.labels,
        modalities={
            m: ModalitySpec(
                dim=config.features[m].dim,
                minimum_length=config.minimum_length(m),
                frame_rate=config.features[m].frame_rate,
                features=config.features[m].features,
                normalised=config.features[m].normalised,
            )
            for m in MODALITIES
        },
        graphs=tuple(graphs[pattern] for pattern in ALL_PATTERNS if pattern in graphs),
        golden=Golden(file=GOLDEN_NAME, sha256=hashlib.sha256(content).hexdigest()),
        checkpoint=Origin(sha256=sha256, model=config.architecture.model, training=header.training),
        tools={
            "ifmmin": package_version(),
            **{name: version(name) for name in ("onnx", "onnxruntime", "torch")},
        },
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
