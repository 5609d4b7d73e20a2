"""A bundle on disk: the manifest, graphs whose hashes hold, and golden vectors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_safetensors

from ifmmin.runtime.errors import BundleError
from ifmmin.runtime.manifest import GraphEntry, Manifest, read_manifest
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
        """The patterns that this bundle can answer."""
        return self.manifest.patterns

    def entry(self, pattern: Pattern, precision: str = "fp32") -> GraphEntry:
        """The manifest's entry of a graph; BundleError lists what there is."""
        for entry in self.manifest.graphs:
            if entry.pattern == pattern and entry.precision == precision:
                return entry
        have = ", ".join(f"{entry.pattern} ({entry.precision})" for entry in self.manifest.graphs)
        raise BundleError(
            f"the bundle {self.directory} has no {precision} graph for pattern {pattern}; "
            f"it has {have or 'none'}; export it with ifmmin-export CHECKPOINT --pattern {pattern}"
        )

    def graph(self, pattern: Pattern, precision: str = "fp32") -> bytes:
        """The bytes of a graph after its hash was found right; they are what a backend loads."""
        entry = self.entry(pattern, precision)
        return self._verified(entry.file, entry.sha256)

    def golden(self) -> list[GoldenCase]:
        """The golden vectors, in the order of their keys `PATTERN/NUMBER/{a,v,t,logits}`."""
        cases: dict[tuple[str, str], dict[str, NDArray[np.float32]]] = {}
        for key, array in self.golden_tensors().items():
            pattern, number, name = key.split("/")
            cases.setdefault((pattern, number), {})[name] = array
        return [
            GoldenCase(
                pattern=Pattern.parse(pattern),
                features={Modality.of(n): array for n, array in case.items() if n != "logits"},
                logits=case["logits"],
            )
            for (pattern, _), case in sorted(cases.items())
        ]

    def golden_tensors(self) -> dict[str, NDArray[np.float32]]:
        """The content of the golden file after its hash was found right."""
        content = self._verified(self.manifest.golden.file, self.manifest.golden.sha256)
        tensors: dict[str, NDArray[np.float32]] = load_safetensors(content)
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
