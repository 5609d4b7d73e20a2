"""Bundle on disk and the structs of its `manifest.json`; docs/bundle.md describes every field.

Hashes of graphs are checked when they are read; golden vectors are those of the exporter.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import BundleError, InputError
from .files import JSON_ERRORS, open_regular, read_regular
from .graph_file import TensorSpec, check_graph_file, read_graph_file
from .modality import ALL_PATTERNS, Modality, Pattern
from .prediction import check_labels

SCHEMA_VERSION = 4
MANIFEST_NAME = "manifest.json"
_MANIFEST_BYTES = 1 << 26
_GRAPH_BYTES = 1 << 31
"""What protobuf can hold."""

SHAPES = ("latency", "throughput", "step", "summary", "head")
"""What a graph takes: one utterance; a batch; new frames; what was pooled; what was summarised."""
MODALITY_SHAPES = ("step", "summary")
PRECISIONS = ("fp32", "fp16", "int8", "int8-qdq")
RECURRENCES = ("lstm", "scan", "none")


def require_file_name(name: str) -> None:
    """ValueError unless it is a plain name, which leads to nowhere else."""
    if not name.isprintable() or "/" in name or name in ("", ".", ".."):
        raise ValueError(f"got the file name {name!r}, wanted one inside of the bundle")


class MissingSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What stands for a missing modality: the embedding of zeros, a constant in every graph."""

    length: int
    """Zero frames whose embedding it is."""
    deviation: float
    """Largest change of a value of the embedding if more zeros stood for it."""
    settled_at: int | None
    """Zero frames from which no value changes by more than `tolerance` any more; None: never."""
    tolerance: float


_MOST = 10_000_000
"""Features of a frame, or frames."""


class ModalitySpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a graph expects of one modality."""

    dim: int
    """Features per frame."""
    minimum_length: int
    """Shortest input in frames; a shorter one is padded with zero frames to this length."""
    verified_length: int
    """Longest input in frames with which the graphs were compared with their network."""
    frame_rate: float | None
    """Frames a second; None where frames have no fixed rate (words, one vector a clip)."""
    features: str
    """What the numbers are, for the person who has to compute them."""
    missing: MissingSpec
    normalised: bool = False
    """The caller standardises: the graph holds no statistics."""

    def __post_init__(self) -> None:
        lengths = self.minimum_length, self.verified_length
        if not (1 <= self.dim <= _MOST and 1 <= lengths[0] <= lengths[1] <= _MOST):
            raise ValueError(
                f"got dim {self.dim}, minimum_length {lengths[0]}, verified_length {lengths[1]}; "
                f"wanted 1 to {_MOST:,}, the last not below the one before"
            )
        if self.frame_rate is not None and not 0 < self.frame_rate < math.inf:
            raise ValueError(f"got frame_rate {self.frame_rate}, wanted a number above 0")


class StateSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A value that a step graph takes from its last call."""

    name: str
    """Input that takes it."""
    output: str
    """Output that gives the next one."""
    initial: float
    """What fills it before the first call."""
    initial_shape: tuple[int | str, ...]
    """Its shape before the first call; the tail of a text is empty then."""


class GraphEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One graph file of the bundle."""

    shape: str
    """`latency`: one utterance, (T, D) per present modality -> `logits` (C,); `throughput`: a
    batch, (B, T, D) and `lengths` (B,) per present modality -> `logits` (B, C); `step`: new frames
    (B, N, D) and states of a modality -> states and `pooled` (B, P); `summary`: `pooled` ->
    `summary` (B, S); `head`: summaries of present modalities -> `logits` (B, C)."""
    subject: str
    """The pattern of a latency, throughput or head graph, the modality of a step or summary."""
    precision: str
    recurrence: str
    """`lstm`: the plain operator; `scan`: input projection before the loop, running maximum in it;
    `none`: nothing recurrent in the graph."""
    file: str
    sha256: str
    bytes: int
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...] = ()
    quantised: tuple[str, ...] = ()
    """Groups of operators that compute in 8 bits."""
    parity: dict[str, Any]
    """The comparison with the network that was made before the graph was written."""
    evaluation: dict[str, Any] | None = None
    """Accuracy on a corpus beside that of the network, where it was measured."""

    def __post_init__(self) -> None:
        require_file_name(self.file)
        for what, value, known in (
            ("shape", self.shape, SHAPES), ("precision", self.precision, PRECISIONS),
            ("recurrence", self.recurrence, RECURRENCES),
        ):  # fmt: skip
            if value not in known:
                raise ValueError(f"unknown {what} {value!r}; known are {', '.join(known)}")
        try:
            _ = self.pattern, self.modality
        except InputError as error:
            raise ValueError(str(error)) from error

    @property
    def pattern(self) -> Pattern | None:
        """What is present; None for a graph of one modality."""
        return None if self.shape in MODALITY_SHAPES else Pattern.parse(self.subject)

    @property
    def modality(self) -> Modality | None:
        """Whose step or summary it is; None for a graph of a pattern."""
        return Modality.of(self.subject) if self.shape in MODALITY_SHAPES else None

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What tells the graph from the others of its bundle."""
        return (self.shape, self.subject, self.precision, self.recurrence)


class ProfileSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes for which an engine was built."""

    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]


class EngineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One engine that was built ahead of time from a graph of the bundle."""

    engine: str
    """Which engine loads it: `tensorrt-rtx`."""
    version: str
    targets: tuple[str, ...]
    """Compute capabilities, for example `SM86`."""
    graph: str
    """File of the graph it was built from."""
    graph_sha256: str
    file: str
    sha256: str
    bytes: int
    profile: dict[str, ProfileSpec]
    """Per input."""

    def __post_init__(self) -> None:
        require_file_name(self.file)


class BackendSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Which graphs a backend takes, best first."""

    recurrences: tuple[str, ...]
    precisions: tuple[str, ...]


BACKENDS: dict[str, BackendSpec] = {
    "onnxruntime-cpu": BackendSpec(recurrences=("lstm",), precisions=("fp32", "int8")),
    "onnxruntime-cuda": BackendSpec(recurrences=("lstm",), precisions=("fp32", "fp16")),
    "onnxruntime-tensorrt": BackendSpec(
        recurrences=("scan", "lstm"), precisions=("fp16", "fp32", "int8-qdq")
    ),
    "openvino": BackendSpec(recurrences=("lstm",), precisions=("fp32",)),
    "tensorrt": BackendSpec(recurrences=("scan", "lstm"), precisions=("fp16", "fp32", "int8-qdq")),
    "tensorrt-rtx": BackendSpec(
        recurrences=("scan", "lstm"), precisions=("fp16", "fp32", "int8-qdq")
    ),
}
"""What an exporter writes for every backend. TensorRT would compute an input's projection in every
step of a plain LSTM; ONNX Runtime's own LSTM is faster than a loop."""


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """The file of golden vectors."""

    file: str
    sha256: str

    def __post_init__(self) -> None:
        require_file_name(self.file)


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where the weights come from."""

    sha256: str
    """Of the checkpoint file."""
    model: str
    training: dict[str, Any]
    """The checkpoint's own record: recipe, corpus, fold, seed, metrics."""


_PRIOR_TOLERANCE = 1e-3


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of manifest.json."""

    schema: int
    labels: tuple[str, ...]
    modalities: dict[Modality, ModalitySpec]
    graphs: tuple[GraphEntry, ...]
    engines: tuple[EngineEntry, ...] = ()
    backends: dict[str, BackendSpec]
    golden: Golden
    checkpoint: Origin
    prior: tuple[float, ...] | None = None
    """Share of every class in the training part; None where the checkpoint does not say."""
    licence: str | None = None
    """Of the weights; None where nobody said."""
    tools: dict[str, str]
    """Versions of what wrote the bundle."""

    def __post_init__(self) -> None:
        try:
            check_labels(self.labels)
        except InputError as error:
            raise ValueError(str(error)) from error
        prior = self.prior
        if prior is not None and not (
            len(prior) == len(self.labels)
            and min(prior) >= 0
            and math.isclose(sum(prior), 1.0, abs_tol=_PRIOR_TOLERANCE)
        ):
            raise ValueError(
                f"got prior {list(prior)}, wanted {len(self.labels)} shares that sum up to 1"
            )

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns for which there is a latency graph, in the order of the file."""
        found = (entry.pattern for entry in self.graphs if entry.shape == "latency")
        return tuple(dict.fromkeys(pattern for pattern in found if pattern is not None))

    @property
    def stream_patterns(self) -> tuple[Pattern, ...]:
        """The patterns that streams can answer, in canonical order."""
        heads = {entry.pattern for entry in self.graphs if entry.shape == "head"}
        return tuple(pattern for pattern in ALL_PATTERNS if pattern in heads)

    def to_json(self) -> str:
        """The text of manifest.json, the same for the same content."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=2)
        return text.decode() + "\n"


class _Schema(msgspec.Struct):
    schema: int


def read_manifest(directory: Path) -> Manifest:
    """Read `directory`/manifest.json; BundleError when absent, broken, too new or too old."""
    path = directory / MANIFEST_NAME
    try:
        if not directory.is_dir():
            raise BundleError(f"no bundle at {directory}; make one with ifmmin-export")
        content = read_regular(path, BundleError, _MANIFEST_BYTES)
    except FileNotFoundError:
        raise BundleError(
            f"{directory} is not a bundle: it has no {MANIFEST_NAME}; make one with ifmmin-export"
        ) from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    try:
        _require_schema(path, msgspec.json.decode(content, type=_Schema).schema)
        return msgspec.json.decode(content, type=Manifest)
    except JSON_ERRORS as error:
        raise BundleError(f"{path} is damaged ({error}); export the bundle again") from error


def _require_schema(path: Path, schema: int) -> None:
    if schema > SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema {schema}, this version of ifmmin reads up to {SCHEMA_VERSION}; "
            "update ifmmin here or export again with this version"
        )
    if schema < SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema {schema} of a version before the first release, this version reads "
            f"{SCHEMA_VERSION}; export the bundle again with ifmmin-export"
        )


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

    def golden_tensors(self) -> dict[str, NDArray[np.float32]]:
        """The content of the golden file, `inputs/NUMBER/MODALITY` (T, D) of every modality and
        `logits/PATTERN/NUMBER` (C,); BundleError where it is damaged or holds anything else."""
        golden = self.manifest.golden
        content = self._verified(golden.file, golden.sha256)
        from safetensors import SafetensorError
        from safetensors.numpy import load  # seldom wanted, and slow to import

        try:
            tensors: dict[str, NDArray[np.float32]] = load(content)
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
            else:
                raise ValueError(f"unknown {key}")
            if array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"{key} is {array.dtype} {array.shape}, or not finite")
        every = set(self.manifest.modalities)
        if not inputs or any(found != every for found in inputs.values()):
            raise ValueError("no inputs in it, or not of every modality")
        if not answers.keys() <= inputs.keys():
            raise ValueError("answers without inputs")

    def _verified(self, name: str, sha256: str, size: int | None = None) -> bytes:
        path = self.directory / name
        try:
            with open_regular(path, BundleError, _GRAPH_BYTES) as file:
                found_size = os.fstat(file.fileno()).st_size
                if size is not None and found_size != size:
                    raise BundleError(
                        f"{path} is damaged: it has {found_size} bytes, the manifest says {size}; "
                        "copy or export the bundle again"
                    )
                content = file.read()
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
