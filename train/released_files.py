"""What the reference's trainer leaves behind, read without running any of it.

DIR/train_opt.conf               every option; JSON that may hold Infinity
DIR/FOLD/EPOCH_net_NAME.pth      a pickled state_dict for each of A, V, L, C and
                                 Shared (stage 1), AE and invariant (stage 2), AE (MMIN)
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifmmin.runtime.errors import CheckpointError
from ifmmin.train.released_weights import Weights, read_weights

_ENCODERS = {"A", "V", "L", "C"}
NETS = {
    "fusion": _ENCODERS | {"Shared"},
    "if-mmin": _ENCODERS | {"AE", "invariant"},
    "mmin": _ENCODERS | {"AE"},
}
"""The sub-networks of each of our models."""
_UNREAD = {"fusion": set(), "if-mmin": set(), "mmin": {"AE_cycle"}}
_NAME = re.compile(r"(?P<epoch>[^_]+)_net_(?P<net>\w+)\.pth")


@dataclass(frozen=True)
class ReleasedFiles:
    """One epoch of one fold."""

    options: dict[str, Any]
    """train_opt.conf"""
    model: str
    """Which of our models it is."""
    epoch: str
    """A number, or `latest`."""
    weights: dict[str, Weights]
    """Per sub-network."""
    sha256: dict[str, str]
    """Per file that was read."""
    unread: tuple[str, ...]
    """Files whose sub-network has no part in an answer."""


def read_released_files(directory: Path, fold: int, epoch: str | None = None) -> ReleasedFiles:
    """Read one fold; epoch: None takes the only one. CheckpointError names the file at fault."""
    options = _read_options(directory)
    folder = directory / str(fold)
    if not folder.is_dir():
        there = ", ".join(sorted(p.name for p in directory.iterdir() if p.is_dir())) or "none"
        raise CheckpointError(f"{directory} has no fold {fold}; it has {there}")
    by_epoch = _by_epoch(folder)
    chosen = _choose_epoch(folder, by_epoch, epoch)
    model = _require_model(folder, chosen, by_epoch[chosen], str(options.get("model", "")))
    weights, sha256 = {}, {}
    for net in sorted(NETS[model]):
        path = folder / f"{chosen}_net_{net}.pth"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        weights[net] = read_weights(path, content)
        sha256[path.name] = hashlib.sha256(content).hexdigest()
    unread = tuple(f"{chosen}_net_{net}.pth" for net in sorted(by_epoch[chosen] - NETS[model]))
    return ReleasedFiles(options, model, chosen, weights, sha256, unread)


def _read_options(directory: Path) -> dict[str, Any]:
    path = directory / "train_opt.conf"
    try:
        options = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"{directory} is not a checkpoint directory of the reference: it has no "
            "train_opt.conf; give checkpoints/NAME, the directory that holds the folds"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(options, dict):
        raise CheckpointError(
            f"{path}: got a {type(options).__name__}, wanted an object of options"
        )
    return options


def _by_epoch(folder: Path) -> dict[str, set[str]]:
    """Per epoch the sub-networks that have a file."""
    known = set().union(*NETS.values(), *_UNREAD.values())
    found: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.pth")):
        match = _NAME.fullmatch(path.name)
        if match is None or match["net"] not in known:
            raise CheckpointError(
                f"{path} is not a file of this reference; wanted EPOCH_net_NAME.pth with one of "
                f"{', '.join(sorted(known))} as NAME"
            )
        found.setdefault(match["epoch"], set()).add(match["net"])
    if not found:
        raise CheckpointError(f"{folder} holds no EPOCH_net_NAME.pth")
    return found


def _choose_epoch(folder: Path, by_epoch: dict[str, set[str]], epoch: str | None) -> str:
    listed = ", ".join(sorted(by_epoch, key=lambda e: (len(e), e)))
    if epoch is not None:
        if epoch not in by_epoch:
            raise CheckpointError(f"{folder} has no epoch {epoch}; it has {listed}")
        return epoch
    complete = [e for e, nets in by_epoch.items() if _model_of(nets) is not None]
    candidates = complete if len(complete) == 1 else list(by_epoch)
    if len(candidates) > 1:
        raise CheckpointError(
            f"{folder} has epochs {listed}; choose one with --epoch (the reference's log names the "
            "best one)"
        )
    return candidates[0]


def _model_of(nets: set[str]) -> str | None:
    return next((m for m, own in NETS.items() if own <= nets <= own | _UNREAD[m]), None)


def _require_model(folder: Path, epoch: str, nets: set[str], said: str) -> str:
    """Which of our models these sub-networks are; said: the option `model` of the reference."""
    model = _model_of(nets)
    if model == "mmin" and said.upper().startswith("IF"):
        raise CheckpointError(
            f"{folder}: {epoch}_net_invariant.pth is missing and train_opt.conf says model {said}; "
            "without it this would be an MMIN"
        )
    if model is not None:
        return model
    nearest = min(NETS, key=lambda m: len(NETS[m] ^ nets))
    missing = NETS[nearest] - nets
    if missing:
        raise CheckpointError(
            f"{folder}: {epoch}_net_{min(missing)}.pth is missing; "
            f"wanted {_list(NETS['fusion'])} (stage 1), "
            f"{_list(NETS['if-mmin'])} (stage 2) or {_list(NETS['mmin'])} (MMIN)"
        )
    extra = min(nets - NETS[nearest])
    raise CheckpointError(
        f"{folder}: {epoch}_net_{extra}.pth does not go with {_list(NETS[nearest])}"
    )


def _list(nets: set[str]) -> str:
    return ", ".join(sorted(nets))
