"""Engines built ahead of time from proven graphs, for the devices that load them as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ifmmin.export.workshop import ProvenGraph
from ifmmin.runtime.backends.profile import profile_of
from ifmmin.runtime.backends.tensorrt_build import build_engine
from ifmmin.runtime.manifest import BACKENDS, EngineEntry, ModalitySpec
from ifmmin.runtime.modality import Modality

ENGINE_SHAPES = ("latency", "throughput")


@dataclass(frozen=True)
class BuiltAhead:
    """An engine file with its entry."""

    content: bytes
    entry: EngineEntry


def graphs_for(flavour: str, graphs: Sequence[ProvenGraph]) -> list[ProvenGraph]:
    """Of every pattern, shape and precision the graph in the form that the engine takes first."""
    spec = BACKENDS[flavour]
    order = [*spec.recurrences, "none"]
    best: dict[tuple[str, ...], ProvenGraph] = {}
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
    graphs: Sequence[ProvenGraph],
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
