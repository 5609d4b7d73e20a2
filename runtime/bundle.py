"""A bundle on disk: the manifest, graphs whose hashes hold, and golden vectors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import BundleError
from ifmmin.runtime.manifest import EngineEntry, GraphEntry, Manifest, read_manifest
from ifmmin.runtime.modality import Modality, Pattern

Features = dict[Modality, NDArray[np.float32]]
"""Per present modality an array (T, D)."""


@dataclass(frozen=True)
class GoldenCase:
    """One input with the answer that the network gave at export."""

    pattern: Pattern
    features: Features
    logits: NDArray[np.float32]
    """(C,)"""


class Bundle:
    """An opened bundle. Raises BundleError where the directory is not a sound bundle."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.manifest: Manifest = read_manifest(self.directory)

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns of which this bundle can answer whole utterances, one at a time."""
        return self.manifest.patterns

    @property
    def stream_patterns(self) -> tuple[Pattern, ...]:
        """The patterns that streams can answer, in canonical order."""
        return self.manifest.stream_patterns

    def find(
        self, shape: str, subject: Pattern | Modality, precision: str = "fp32"
    ) -> list[GraphEntry]:
        """Graphs of a shape for a pattern or modality, one per form of recurrence."""
        wanted = (shape, str(subject), precision)
        return [entry for entry in self.manifest.graphs if entry.key[:3] == wanted]

    def has(self, shape: str, subject: Pattern | Modality) -> bool:
        """Whether there is any graph of a shape for a pattern or modality."""
        return any(entry.key[:2] == (shape, str(subject)) for entry in self.manifest.graphs)

    def entry(
        self,
        subject: Pattern | Modality,
        precision: str = "fp32",
        shape: str = "latency",
        backend: str = "onnxruntime-cpu",
    ) -> GraphEntry:
        """The graph that a backend takes first; BundleError lists what there is."""
        found = {entry.recurrence: entry for entry in self.find(shape, subject, precision)}
        spec = self.manifest.backends.get(backend)
        for recurrence in (*(spec.recurrences if spec else ()), "none"):
            if recurrence in found:
                return found[recurrence]
        have = ", ".join(" ".join(e.key) for e in self.manifest.graphs if e.shape == shape)
        kind = "--precision" if precision != "fp32" else "--pattern"
        value = precision if precision != "fp32" else subject
        raise BundleError(
            f"the bundle {self.directory} has no {precision} {shape} graph of {subject} for "
            f"{backend}; it has {have or 'none'}; export it with ifmmin-export ... {kind} {value}"
            f"{' --shape throughput' if shape == 'throughput' else ''}"
        )

    def graph(self, entry: GraphEntry | EngineEntry) -> bytes:
        """The content of a graph or engine after its hash was found right; what is loaded."""
        return self._verified(entry.file, entry.sha256)

    def golden_inputs(self) -> list[Features]:
        """Inputs of all modalities, the same for every pattern."""
        found: dict[int, Features] = {}
        for key, array in self.golden_tensors().items():
            kind, number, name = key.split("/")
            if kind == "inputs":
                found.setdefault(int(number), {})[Modality.of(name)] = array
        return [found[number] for number in sorted(found)]

    def golden(self) -> list[GoldenCase]:
        """Every pattern's inputs with its answers, in the order of patterns, then of inputs."""
        inputs, tensors = self.golden_inputs(), self.golden_tensors()
        cases = []
        for pattern in self.patterns:
            for number, features in enumerate(inputs):
                logits = tensors[f"logits/{pattern}/{number}"]
                cases.append(GoldenCase(pattern, {m: features[m] for m in pattern}, logits))
        return cases

    def golden_tensors(self) -> dict[str, NDArray[np.float32]]:
        """The content of the golden file after its hash was found right."""
        content = self._verified(self.manifest.golden.file, self.manifest.golden.sha256)
        from safetensors.numpy import load  # seldom wanted, and slow to import

        tensors: dict[str, NDArray[np.float32]] = load(content)
        return tensors

    def _verified(self, name: str, sha256: str) -> bytes:
        path = self.directory / name
        if path.parent != self.directory:
            raise BundleError(f"the manifest names {name!r}, a file outside of the bundle")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(
                f"{path} cannot be read ({error.strerror}); export the bundle again"
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise BundleError(
                f"{path} is damaged: its sha256 is {found[:12]}..., the manifest says "
                f"{sha256[:12]}...; copy or export the bundle again"
            )
        return content
