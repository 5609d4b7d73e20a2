"""Manifest: the structs of a bundle's `manifest.json`; docs/bundle.md describes every field."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from ..errors import BundleError, InputError
from ..files import JSON_ERRORS, read_regular
from ..frontends.spec import FrontEndSpec, require_file_name
from ..modality import ALL_PATTERNS, Modality, Pattern
from ..prediction import check_labels
from .graph_file import TensorSpec

SCHEMA_VERSION = 4
MANIFEST_NAME = "manifest.json"
_MANIFEST_BYTES = 1 << 26

SHAPES = ("latency", "throughput", "step", "summary", "head")
"""What a graph takes: one utterance; a batch; new frames; what was pooled; what was summarised."""
MODALITY_SHAPES = ("step", "summary")
PRECISIONS = ("fp32", "fp16", "int8", "int8-qdq")
RECURRENCES = ("lstm", "scan", "none")


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
    frontend: FrontEndSpec | None = None
    """What makes the features of a signal; None where the caller has them."""

    def __post_init__(self) -> None:
        lengths = self.minimum_length, self.verified_length
        if not (1 <= self.dim <= _MOST and 1 <= lengths[0] <= lengths[1] <= _MOST):
            raise ValueError(
                f"got dim {self.dim}, minimum_length {lengths[0]}, verified_length {lengths[1]}; "
                f"wanted 1 to {_MOST:,}, the last not below the one before"
            )
        if self.frame_rate is not None and not 0 < self.frame_rate < math.inf:
            raise ValueError(f"got frame_rate {self.frame_rate}, wanted a number above 0")
        if self.frontend is not None and self.frontend.dim != self.dim:
            raise ValueError(
                f"the front-end {self.frontend.kind} makes {self.frontend.dim} features a frame, "
                f"wanted {self.dim}"
            )


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
