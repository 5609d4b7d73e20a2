"""Checkpoints: one .safetensors file with the whole configuration in its header. No pickle."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ifmmin.runtime.console import package_version
from ifmmin.runtime.errors import CheckpointError, IfmminError, one_line
from ifmmin.runtime.files import JSON_ERRORS, atomic_file, read_regular

from .config import ModelConfig
from .model.models import build_network, network_shapes
from .model.network import EmotionNetwork

SCHEMA_VERSION = 5
_KEY = "ifmmin"


class _Schema(msgspec.Struct):
    schema: int


class _Imported(msgspec.Struct):
    """What is read of the record of an import."""

    missing_frames: dict[str, int] = {}


class _Training(msgspec.Struct):
    """What is read of the record of a training."""

    recipe: dict[str, Any] = {}
    corpus: str = ""
    fold: Annotated[int, msgspec.Meta(ge=1)] = 1
    seed: int = 0
    prior: list[Annotated[float, msgspec.Meta(ge=0, le=1)]] | None = None
    metrics: dict[str, Any] = {}
    imported: _Imported | None = None


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What the file's metadata holds under the key `ifmmin`, as JSON."""

    schema: int
    config: ModelConfig
    training: dict[str, Any]
    """Recipe, corpus, fold, seed and metrics of the run that made it."""
    tools: dict[str, str]
    """Versions of what wrote it."""
    sha256: str = ""
    """Over all else in the file; see `_digest`."""


def save_checkpoint(path: Path, network: EmotionNetwork, training: dict[str, Any]) -> None:
    """Write a checkpoint atomically; the same network and record give the same bytes."""
    header = Header(
        schema=SCHEMA_VERSION,
        config=network.config,
        training=training,
        tools={"ifmmin": package_version(), "torch": version("torch")},
    )
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    digest = _digest(msgspec.json.encode(header), *_parts(path, save(tensors)))
    header = msgspec.structs.replace(header, sha256=digest)
    content = save(tensors, {_KEY: msgspec.json.encode(header).decode()})
    with atomic_file(path) as part:
        part.write_bytes(content)


def load_checkpoint(path: Path) -> tuple[EmotionNetwork, Header]:
    """The network, in eval mode, and the header; CheckpointError for any other file."""
    try:
        content = read_regular(path, CheckpointError)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}; train one with ifmmin-train fit") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    index, data = _parts(path, content)
    header = _header(path, index, data)
    _require_shapes(path, header.config, index)
    network = build_network(header.config)
    try:
        network.load_state_dict(load(content))
    except (RuntimeError, KeyError, SafetensorError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path} does not hold the network it describes: {reason}") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
        raise CheckpointError(f"{path} holds weights that are not finite; train it again")
    return network.eval(), header


def _parts(path: Path, content: bytes) -> tuple[dict[str, Any], memoryview]:
    """Index and data of a safetensors file: 8 bytes of length, a JSON object, the numbers."""
    start = 8 + int.from_bytes(content[:8], "little")
    try:
        if len(content) < 8 or start > len(content):
            raise ValueError("its header is longer than the file")
        index: dict[str, Any] = msgspec.json.decode(content[8:start], type=dict[str, Any])
    except (ValueError, *JSON_ERRORS) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint (.safetensors) of ifmmin: {one_line(error)}"
        ) from error
    return index, memoryview(content)[start:]


def _digest(text: bytes, index: dict[str, Any], data: memoryview) -> str:
    """SHA-256 over the header without it, which tensor lies where, and the numbers."""
    tensors = {name: entry for name, entry in index.items() if name != "__metadata__"}
    told = hashlib.sha256(text)
    told.update(msgspec.json.encode(tensors, order="sorted"))
    told.update(data)
    return told.hexdigest()


def _header(path: Path, index: dict[str, Any], data: memoryview) -> Header:
    metadata = index.get("__metadata__")
    text = metadata.get(_KEY) if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(text, str):
        raise CheckpointError(
            f"{path} is a safetensors file but not a checkpoint of ifmmin; train one with "
            "ifmmin-train fit"
        )
    try:
        _require_schema(path, msgspec.json.decode(text, type=_Schema).schema)
        header = msgspec.json.decode(text, type=Header)
        rest = text.replace(f'"sha256":"{header.sha256}"', '"sha256":""').encode()
        if header.sha256 != _digest(rest, index, data):
            raise ValueError("its content is not what its checksum says")
        prior, classes = msgspec.convert(header.training, _Training).prior, header.config.labels
        if prior is not None and not (len(prior) == len(classes) and abs(sum(prior) - 1) < 1e-3):
            raise ValueError(f"its prior is no distribution over {', '.join(classes)}")
        return header
    except CheckpointError:
        raise
    except (ValueError, IfmminError, *JSON_ERRORS) as error:
        raise CheckpointError(
            f"{path} is damaged: {one_line(error)}; copy it again, or train it again"
        ) from error


def _require_schema(path: Path, schema: int) -> None:
    if schema > SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has schema {schema}, this version reads up to {SCHEMA_VERSION}; update ifmmin"
        )
    if schema < SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has schema {schema} of a version before the first release, this version reads "
            f"{SCHEMA_VERSION}; train it again with ifmmin-train fit, or import it again"
        )


def _require_shapes(path: Path, config: ModelConfig, index: dict[str, Any]) -> None:
    """CheckpointError unless the file has the tensors of the network, before any is made."""
    wanted = network_shapes(config)
    found = {
        name: tuple(entry.get("shape", ())) if isinstance(entry, dict) else None
        for name, entry in index.items()
        if name != "__metadata__"
    }
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"{path} does not hold the network it describes: {name} is "
                f"{found.get(name, 'missing')}, wanted {wanted.get(name, 'nothing of that name')}"
            )
