"""Writer of bundles: new graphs join what stands, engines are built, everything appears at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors.numpy import save as save_safetensors

from ifmmin.runtime.backends.profile import profile_of
from ifmmin.runtime.backends.tensorrt_build import build_engine
from ifmmin.runtime.bundle import (
    BACKENDS,
    MANIFEST_NAME,
    PRECISIONS,
    RECURRENCES,
    SCHEMA_VERSION,
    SHAPES,
    Bundle,
    EngineEntry,
    Golden,
    GraphEntry,
    Manifest,
    MissingSpec,
    ModalitySpec,
    Origin,
)
from ifmmin.runtime.console import package_version
from ifmmin.runtime.errors import BundleError, OutputError
from ifmmin.runtime.files import atomic_directory
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Modality
from ifmmin.train.checkpoint import Header
from ifmmin.train.model.network import EmotionNetwork

from .card import model_card
from .context import ExportedGraph
from .frontends.files import CarriedFiles
from .verify.probes import LONGEST, Probes

ENGINE_SHAPES = ("latency", "throughput")


@dataclass(frozen=True)
class BuiltAhead:
    """An engine file with its entry."""

    content: bytes
    entry: EngineEntry


def graphs_for(flavour: str, graphs: Sequence[ExportedGraph]) -> list[ExportedGraph]:
    """Of every pattern, shape and precision the graph in the form that the engine takes first."""
    spec = BACKENDS[flavour]
    order = [*spec.recurrences, "none"]
    best: dict[tuple[str, ...], ExportedGraph] = {}
    for graph in graphs:
        entry = graph.entry
        if entry.shape not in ENGINE_SHAPES or entry.precision not in spec.precisions:
            continue
        standing = best.get(entry.key[:3])
        if standing is None or order.index(entry.recurrence) < order.index(
            standing.entry.recurrence
        ):
            best[entry.key[:3]] = graph
    return list(best.values())


def build_ahead(
    flavour: str,
    graphs: Sequence[ExportedGraph],
    modalities: Mapping[Modality, ModalitySpec],
    targets: Sequence[str],
    advance: Callable[[str], None],
) -> list[BuiltAhead]:
    """One engine per graph; EngineError or BackendUnavailable where it cannot be built."""
    made = []
    for graph in graphs:
        profile = profile_of(graph.entry, modalities)
        built = build_engine(graph.content, profile, flavour=flavour, targets=targets)
        stem = graph.entry.file.removesuffix(".onnx")
        entry = EngineEntry(
            engine=flavour,
            version=built.version,
            targets=tuple(built.targets),
            graph=graph.entry.file,
            graph_sha256=graph.entry.sha256,
            file=f"{stem}.{flavour}.engine",
            sha256=hashlib.sha256(built.content).hexdigest(),
            bytes=len(built.content),
            profile=profile,
        )
        made.append(BuiltAhead(built.content, entry))
        advance(entry.file)
    return made


GOLDEN_NAME = "golden.safetensors"
CARD_NAME = "README.md"

_SUBJECTS = [*(m.value for m in MODALITIES), *(str(p) for p in ALL_PATTERNS if len(p) > 1)]


def standing_bundle(
    out: Path, sha256: str, missing: Mapping[Modality, MissingSpec], *, overwrite: bool
) -> Bundle | None:
    """The bundle at `out`, if there is one and graphs of this checkpoint may join it."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise OutputError(f"cannot write {out}: a file is in the way; choose another --out")
    if not any(out.iterdir()):
        return None
    if not (out / MANIFEST_NAME).exists():
        raise OutputError(f"{out} is in use by something that is no bundle; choose another --out")
    if overwrite:
        return None
    try:
        standing = Bundle(out)
    except BundleError as error:
        raise OutputError(f"{error}; add --overwrite or choose another --out") from error
    if standing.manifest.checkpoint.sha256 != sha256:
        raise OutputError(
            f"{out} holds graphs of another checkpoint "
            f"({standing.manifest.checkpoint.sha256[:12]}...); add --overwrite or choose another "
            "--out"
        )
    for modality, spec in standing.manifest.modalities.items():
        if spec.missing.length != missing[modality].length:
            raise OutputError(
                f"the graphs at {out} take {spec.missing.length} zero frames for a missing "
                f"{modality}, these would take {missing[modality].length}; add --overwrite or "
                "choose another --out"
            )
    return standing


class BundleWriter:
    """Puts a bundle together."""

    def __init__(
        self,
        network: EmotionNetwork,
        header: Header,
        sha256: str,
        missing: Mapping[Modality, MissingSpec],
        probes: Probes,
        licence: str | None,
        frontends: CarriedFiles,
    ) -> None:
        self._network = network
        self._header = header
        self._sha256 = sha256
        self._missing = missing
        self._probes = probes
        self._licence = licence
        self._frontends = frontends

    def write(
        self,
        out: Path,
        made: Sequence[ExportedGraph],
        ahead: Sequence[BuiltAhead],
        standing: Bundle | None,
    ) -> None:
        """Write what was made and what stands; a graph of the same key is replaced.

        An engine stays as long as the graph stands from which it was built.
        """
        files = self._frontends.contents | {graph.entry.file: graph.content for graph in made}
        files |= {engine.entry.file: engine.content for engine in ahead}
        graphs = {graph.entry.key: graph.entry for graph in made}
        engines = {engine.entry.file: engine.entry for engine in ahead}
        if standing is not None:
            for entry in standing.manifest.graphs:
                if entry.key not in graphs:
                    graphs[entry.key] = entry
                    files[entry.file] = standing.graph(entry)
            current = {entry.sha256 for entry in graphs.values()}
            for engine in standing.manifest.engines:
                if engine.graph_sha256 in current and engine.file not in engines:
                    engines[engine.file] = engine
                    files[engine.file] = standing.graph(engine)
        files[GOLDEN_NAME] = golden = save_safetensors(self._golden(standing))
        manifest = self._manifest(
            in_order(graphs.values()), tuple(engines.values()), golden, standing
        )
        files[CARD_NAME] = model_card(manifest).encode()
        files[MANIFEST_NAME] = manifest.to_json().encode()
        write_files(out, files)

    def _golden(self, standing: Bundle | None) -> dict[str, NDArray[Any]]:
        """Golden inputs and every pattern's answers, and golden signals with their features. A
        bundle keeps its own."""
        if standing is not None:
            return standing.golden_tensors()
        inputs = self._probes.golden_inputs()
        tensors: dict[str, NDArray[Any]] = {
            f"inputs/{number}/{m}": x for number, f in enumerate(inputs) for m, x in f.items()
        }
        tensors |= self._frontends.golden()
        for pattern, answers in self._probes.truth.answers(inputs).items():
            for number, logits in enumerate(answers.logits):
                tensors[f"logits/{pattern}/{number}"] = logits.astype(np.float32)
        return tensors

    def _manifest(
        self,
        graphs: tuple[GraphEntry, ...],
        engines: tuple[EngineEntry, ...],
        golden: bytes,
        standing: Bundle | None,
    ) -> Manifest:
        config = self._network.config
        return Manifest(
            schema=SCHEMA_VERSION,
            labels=config.labels,
            modalities=modality_specs(self._network, self._missing),
            graphs=graphs,
            engines=engines,
            backends=BACKENDS,
            golden=Golden(file=GOLDEN_NAME, sha256=hashlib.sha256(golden).hexdigest()),
            checkpoint=Origin(
                sha256=self._sha256, model=config.architecture.model, training=self._header.training
            ),
            prior=prior_of(self._header),
            licence=self._licence or (standing.manifest.licence if standing else None),
            tools={
                "ifmmin": package_version(),
                **{name: version(name) for name in ("onnx", "torch")},
                "onnxruntime": onnxruntime.__version__,  # several packages have it
            },
        )


def prior_of(header: Header) -> tuple[float, ...] | None:
    """The class shares that the checkpoint recorded; imported ones know none."""
    found = header.training.get("prior")
    return tuple(float(share) for share in found) if isinstance(found, list) else None


def modality_specs(
    network: EmotionNetwork, missing: Mapping[Modality, MissingSpec]
) -> dict[Modality, ModalitySpec]:
    """What the graphs of a network expect of every modality."""
    config = network.config
    return {
        m: ModalitySpec(
            dim=feature.dim,
            minimum_length=config.minimum_length(m),
            verified_length=LONGEST,
            frame_rate=feature.frame_rate,
            features=feature.features,
            missing=missing[m],
            normalised=feature.normalised,
            frontend=feature.frontend,
        )
        for m, feature in config.features.items()
    }


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Make a directory of files appear whole."""
    with atomic_directory(out) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)


def in_order(entries: Iterable[GraphEntry]) -> tuple[GraphEntry, ...]:
    """By shape, then pattern or modality, precision and form."""
    return tuple(
        sorted(
            entries,
            key=lambda e: (
                SHAPES.index(e.shape),
                _SUBJECTS.index(e.subject),
                PRECISIONS.index(e.precision),
                RECURRENCES.index(e.recurrence),
            ),
        )
    )
