"""What `manifest.json` of a bundle says, as structs; docs/bundle.md describes every field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ifmmin.runtime.errors import BundleError, InputError
from ifmmin.runtime.modality import Modality, Pattern

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"


class ModalitySpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a graph expects of one modality."""

    dim: int
    """Features per frame."""
    minimum_length: int
    """Shortest input in frames; a shorter one is padded with zero frames to this length."""
    frame_rate: float | None
    """Frames a second; None where frames have no fixed rate (words, one vector a clip)."""
    features: str
    """What the numbers are, for the person who has to compute them."""
    normalised: bool = False
    """The caller standardises: the graph holds no statistics."""


class GraphEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One graph file of the bundle."""

    pattern: Pattern
    precision: str
    shape: str
    """`latency`: batch 1, inputs (T, D) per present modality, output `logits` (C,)."""
    file: str
    sha256: str
    bytes: int
    opset: int
    parity: dict[str, Any]
    """The comparison with the network that was made before the graph was written."""


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """The file of golden vectors."""

    file: str
    sha256: str


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where the weights come from."""

    sha256: str
    """Of the checkpoint file."""
    model: str
    training: dict[str, Any]
    """The checkpoint's own record: recipe, corpus, fold, seed, metrics."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of manifest.json."""

    schema: int
    labels: tuple[str, ...]
    modalities: dict[Modality, ModalitySpec]
    graphs: tuple[GraphEntry, ...]
    golden: Golden
    checkpoint: Origin
    tools: dict[str, str]
    """Versions of what wrote the bundle."""

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns that have a graph, in the order of the file."""
        return tuple(dict.fromkeys(entry.pattern for entry in self.graphs))

    def to_json(self) -> str:
        """The text of manifest.json, the same for the same content."""
        text = msgspec.json.format(msgspec.json.encode(self, enc_hook=_encode), indent=2)
        return text.decode() + "\n"


class _Schema(msgspec.Struct):
    schema: int


def read_manifest(directory: Path) -> Manifest:
    """Read `directory`/manifest.json; BundleError when it is absent, broken or too new."""
    path = directory / MANIFEST_NAME
    if not directory.is_dir():
        raise BundleError(f"no bundle at {directory}; make one with ifmmin-export")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BundleError(
            f"{directory} is not a bundle: it has no {MANIFEST_NAME}; make one with ifmmin-export"
        ) from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    try:
        schema = msgspec.json.decode(content, type=_Schema).schema
        if schema > SCHEMA_VERSION:
            raise BundleError(
                f"{path} has schema {schema}, this version of ifmmin reads up to "
                f"{SCHEMA_VERSION}; update ifmmin here or export again with this version"
            )
        return msgspec.json.decode(content, type=Manifest, dec_hook=_decode)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is damaged ({error}); export the bundle again") from error


def _encode(value: object) -> str:
    if isinstance(value, Pattern):
        return str(value)
    raise TypeError(f"cannot encode {type(value)}")


def _decode(kind: type, value: object) -> Pattern:
    if kind is Pattern and isinstance(value, str):
        try:
            return Pattern.parse(value)
        except InputError as error:
            raise ValueError(str(error)) from error
    raise ValueError(f"expected a pattern, got {value!r}")
