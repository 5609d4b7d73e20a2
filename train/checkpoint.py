"""Checkpoints: one .safetensors file with the whole configuration in its header. No pickle."""

from __future__ import annotations

import json
import struct
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ifmmin.runtime.console import package_version
from ifmmin.runtime.errors import CheckpointError, IfmminError
from ifmmin.runtime.files import atomic_file

from .config import ModelConfig
from .model.models import build_network
from .model.network import EmotionNetwork

SCHEMA_VERSION = 4
_KEY = "ifmmin"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What the file's metadata holds under the key `ifmmin`, as JSON."""

    schema: int
    config: ModelConfig
    training: dict[str, Any]
    """Recipe, corpus, fold, seed and metrics of the run that made it."""
    tools: dict[str, str]
    """Versions of what wrote it."""


def save_checkpoint(path: Path, network: EmotionNetwork, training: dict[str, Any]) -> None:
    """Write a checkpoint atomically; the same network and record give the same bytes."""
    header = Header(
        schema=SCHEMA_VERSION,
        config=network.config,
        training=training,
        tools={"ifmmin": package_version(), "torch": version("torch")},
    )
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    metadata = {_KEY: msgspec.json.encode(header).decode()}
    with atomic_file(path) as part:
        save_file(tensors, part, metadata=metadata)


def load_checkpoint(path: Path) -> tuple[EmotionNetwork, Header]:
    """The network, in eval mode, and the header; CheckpointError for any other file."""
    header = _read_header(path)
    network = build_network(header.config)
    try:
        network.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path} does not hold the network it describes: {reason}") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
        raise CheckpointError(f"{path} holds weights that are not finite; train it again")
    return network.eval(), header


def _read_header(path: Path) -> Header:
    text = _metadata(path).get(_KEY)
    if text is None:
        raise CheckpointError(
            f"{path} is a safetensors file but not a checkpoint of ifmmin; train one with "
            "ifmmin-train fit"
        )
    schema = json.loads(text).get("schema", 0)
    if schema > SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has schema {schema}, this version reads up to {SCHEMA_VERSION}; update ifmmin"
        )
    if schema < SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has schema {schema} of a version before the first release, this version reads "
            f"{SCHEMA_VERSION}; train it again with ifmmin-train fit, or import it again"
        )
    try:
        return msgspec.json.decode(text, type=Header)
    except (msgspec.MsgspecError, IfmminError) as error:
        raise CheckpointError(f"{path} has a damaged header: {error}") from error


def _metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file: 8 bytes of length, then a JSON object."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            content = json.loads(file.read(length))
        metadata: dict[str, str] = content.get("__metadata__", {})
        return metadata
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}; train one with ifmmin-train fit") from None
    except (OSError, struct.error, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint (.safetensors) of ifmmin: {error}"
        ) from error
