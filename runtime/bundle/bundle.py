"""Bundle on disk: graphs whose hashes are checked as they are read, and the exporter's answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, InputError
from ..files import read_hashed
from ..frontends.base import unpack_signal
from ..modality import Modality, Pattern
from .graph_file import check_graph_file, read_graph_file
from .manifest import EngineEntry, GraphEntry, Manifest, read_manifest

_GRAPH_BYTES = 1 << 31
"""What protobuf can hold."""

Features = dict[Modality, NDArray[np.float32]]
"""Per present modality an array (T, D)."""


@dataclass(frozen=True)
class GoldenCase:
    """One input with the answer that the network gave at export."""

    pattern: Pattern
    features: Features
    logits: NDArray[np.float32]
    """(C,)"""


def shipped() -> Path:
    """The directory of the bundle that comes with the package; its checkpoint lies in it too."""
    return Path(__file__).parents[1] / "models" / "speech"


@dataclass(frozen=True)
class GoldenSignal:
    """A signal with the features that its front-end made of it at export."""

    modality: Modality
    signal: Any
    features: NDArray[np.float32]
    """(T, D)"""


def shipped_licence() -> str:
    """A line that says what the weights of `shipped` may be used for."""
    return (
        "The weights that come with it are for non-commercial use (CC BY-NC-SA 4.0); their model "
        f"card: {shipped() / 'README.md'}"
    )


class Bundle:
    """An opened bundle. Raises BundleError where the directory is not a sound bundle."""

    def __init__(self, directory: str | Path) -> None:
        given: object = directory
        if not isinstance(given, (str, Path)) or "\0" in str(given):
            raise BundleError(f"bundle: got {directory!r}, wanted the path of a directory")
        self.directory = Path(directory)
        """Where it lies."""
        self.manifest: Manifest = read_manifest(self.directory)
        """What is in it."""

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
        """The content of a graph or engine that is what the manifest says; what is loaded."""
        content = self.read(entry)
        if isinstance(entry, GraphEntry):
            self._require_described(entry, content)
        return content

    def read(self, entry: GraphEntry | EngineEntry) -> bytes:
        """The content of a graph or engine after its size and hash were found right."""
        return self._verified(entry.file, entry.sha256, entry.bytes)

    def _require_described(self, entry: GraphEntry, content: bytes) -> None:
        path = self.directory / entry.file
        try:
            found = check_graph_file(entry, self.manifest, read_graph_file(content))
        except ValueError as error:
            raise BundleError(f"{path} is no graph: {error}; export the bundle again") from error
        wrong = "; ".join(f"{what}: {problem}" for what, problem in found.items() if problem)
        if wrong:
            raise BundleError(
                f"{path} is not what the manifest says ({wrong}); take the bundle from where it "
                "was made, or export it again"
            )

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

    def golden_signals(self) -> list[GoldenSignal]:
        """Signals with the features that the front-ends made of them at export."""
        tensors = self.golden_tensors()
        cases = []
        for key, packed in tensors.items():
            kind, name, number = key.split("/")
            if kind == "signal":
                modality = Modality.of(name)
                spec = self.manifest.modalities[modality].frontend
                assert spec is not None  # `golden_tensors` has looked
                signal = unpack_signal(spec, packed)
                cases.append(GoldenSignal(modality, signal, tensors[f"features/{name}/{number}"]))
        return cases

    def golden_tensors(self) -> dict[str, NDArray[Any]]:
        """The content of the golden file, `inputs/NUMBER/MODALITY` (T, D) of every modality,
        `logits/PATTERN/NUMBER` (C,), and where there are front-ends `signal/MODALITY/NUMBER` with
        `features/MODALITY/NUMBER` (T, D); BundleError where it is damaged or holds anything
        else."""
        golden = self.manifest.golden
        content = self._verified(golden.file, golden.sha256)
        from safetensors import SafetensorError
        from safetensors.numpy import load  # seldom wanted, and slow to import

        try:
            tensors: dict[str, NDArray[Any]] = load(content)
            self._require_golden(tensors)
        # ValueError and KeyError: of names; TypeError: of element types that numpy lacks.
        except (SafetensorError, ValueError, KeyError, TypeError, InputError) as error:
            raise BundleError(
                f"{self.directory / golden.file} is damaged ({error}); export the bundle again"
            ) from error
        return tensors

    def _require_golden(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """ValueError unless there are inputs, each whole, and nothing of another shape."""
        inputs: dict[int, set[Modality]] = {}
        answers: dict[int, None] = {}
        for key, array in tensors.items():
            kind, first, second = key.split("/")
            if kind == "inputs":
                modality = Modality.of(second)
                shape: tuple[int, ...] = (len(array), self.manifest.modalities[modality].dim)
                inputs.setdefault(int(first), set()).add(modality)
            elif kind == "logits":
                shape = (len(self.manifest.labels),)
                answers[int(second)] = None
                Pattern.parse(first)
            elif kind in ("signal", "features"):
                self._require_signal(tensors, kind, first, second)
                continue
            else:
                raise ValueError(f"unknown {key}")
            if array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"{key} is {array.dtype} {array.shape}, or not finite")
        every = set(self.manifest.modalities)
        if not inputs or any(found != every for found in inputs.values()):
            raise ValueError("no inputs in it, or not of every modality")
        if not answers.keys() <= inputs.keys():
            raise ValueError("answers without inputs")

    def _require_signal(
        self, tensors: Mapping[str, NDArray[Any]], kind: str, name: str, number: str
    ) -> None:
        """ValueError unless it is a signal with its features, or those with their signal."""
        spec = self.manifest.modalities[Modality.of(name)]
        signal, features = (tensors[f"{k}/{name}/{number}"] for k in ("signal", "features"))
        if spec.frontend is None or signal.ndim != 1 or signal.dtype not in (np.float32, np.uint8):
            raise ValueError(f"{kind}/{name}/{number} is no signal of a front-end")
        unpack_signal(spec.frontend, signal)
        if (
            features.dtype != np.float32
            or features.ndim != 2
            or features.shape[1] != spec.dim
            or not (np.isfinite(features).all() and np.isfinite(signal).all())
        ):
            raise ValueError(f"{kind}/{name}/{number}: not features of {spec.dim} numbers a frame")

    def _verified(self, name: str, sha256: str, size: int | None = None) -> bytes:
        return read_hashed(self.directory / name, sha256, size, BundleError, _GRAPH_BYTES)
