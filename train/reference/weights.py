"""Weight files of the reference's trainer, read without running any of their code.

Each tensor is taken once; nothing may be left over.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import pickletools
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ifmmin.runtime.console import printable
from ifmmin.runtime.errors import CheckpointError
from ifmmin.runtime.files import read_regular, require_size

_BATCH_NORM = ("running_mean", "running_var", "num_batches_tracked")
_PARALLEL = "module."

State = dict[str, Tensor]


class Weights:
    """The tensors of one sub-network, in float32, without the prefix of DataParallel."""

    def __init__(self, path: Path, tensors: State) -> None:
        self.path = path
        # A wrapped network prefixes every key. The classifier has `module.0.weight` of its own, but
        # beside it `fc_out.weight`, so a prefix that not all keys have is part of the names.
        self._prefix = ""
        while tensors and all(key.startswith(self._prefix + _PARALLEL) for key in tensors):
            self._prefix += _PARALLEL
        self._left = {key[len(self._prefix) :]: tensor for key, tensor in tensors.items()}

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def size(self, key: str, axis: int, *, axes: int = 2) -> int:
        """Length of an axis of a tensor that is still there and must have so many `axes`: sizes
        read off a tensor of another form would make a sound key look wrong."""
        self._require(key)
        shape = self._left[key].shape
        if len(shape) != axes:
            raise CheckpointError(
                f"{self._where(key)} has shape {tuple(shape)}, wanted {axes} axes"
            )
        return shape[axis]

    def take(self, key: str, *shape: int) -> Tensor:
        """The tensor of a key, which must have this shape."""
        self._require(key)
        tensor = self._left.pop(key)
        if tensor.shape != shape:
            raise CheckpointError(
                f"{self._where(key)} has shape {tuple(tensor.shape)}, wanted {shape}"
            )
        return tensor

    def numbered(self, template: str, *, start: int = 0, step: int = 1) -> list[str]:
        """Layer names `template` with the numbers start, start + step, ... that have a weight;
        the first one even if it has none, so that taking it says what is missing."""
        count = 1
        while f"{template.format(start + step * count)}.weight" in self:
            count += 1
        return [template.format(start + step * index) for index in range(count)]

    def linears(self, layers: Sequence[str], sizes: Sequence[int], into: str) -> State:
        """Linear layers in our names: `into`.linears.0.weight (sizes[1], sizes[0]) and so on."""
        state = {}
        for index, (layer, (before, after)) in enumerate(zip(layers, pairwise(sizes), strict=True)):
            state[f"{into}.linears.{index}.weight"] = self.take(f"{layer}.weight", after, before)
            state[f"{into}.linears.{index}.bias"] = self.take(f"{layer}.bias", after)
        return state

    def outputs(self, layers: Sequence[str]) -> list[int]:
        """Output widths of Linear layers that are still there."""
        return [self.size(f"{layer}.weight", 0) for layer in layers]

    def finish(self) -> None:
        """CheckpointError naming a key that nobody took."""
        if self._left:
            raise CheckpointError(
                f"{self._where(min(self._left))} is not expected; was it trained with changed code "
                "or with other options than train_opt.conf says?"
            )

    def _require(self, key: str) -> None:
        if key not in self._left:
            raise CheckpointError(f"{self._where(key)} is missing")

    def _where(self, key: str) -> str:
        return f"{self.path}: key {printable((self._prefix + key)[:99])}"


def read_weights(path: Path, content: bytes) -> Weights:
    """The tensors of a pickled state_dict, read so that nothing in it is run.

    CheckpointError for anything but a flat dictionary of finite, floating, dense tensors.
    """
    try:
        checked = io.BytesIO(_checked(path, content))
        loaded = torch.load(checked, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a broken or hostile pickle raises
        raise CheckpointError(
            f"{path} cannot be read as a file of plain tensors ({type(error).__name__}); wanted a "
            "state_dict as the reference saves it"
        ) from error
    if not isinstance(loaded, dict) or not loaded:
        got = "an empty dict" if loaded == {} else type(loaded).__name__
        raise CheckpointError(f"{path}: got {got}, wanted a state_dict")
    for key, value in loaded.items():
        problem = _problem(key, value)
        if problem:
            raise CheckpointError(f"{path}: key {printable(str(key)[:99])} {problem}")
    # A tensor may repeat a number without end, and many may share theirs.
    require_size(sum(4 * tensor.numel() for tensor in loaded.values()), path, CheckpointError)
    for key, tensor in loaded.items():
        if not torch.isfinite(tensor.float()).all():
            name = printable(key[:99])
            raise CheckpointError(f"{path}: key {name} holds values that are not finite in float32")
    return Weights(path, {key: tensor.float().clone() for key, tensor in loaded.items()})


def _problem(key: object, value: object) -> str | None:
    if not isinstance(key, str):
        return "is not a name"
    if key.endswith(_BATCH_NORM):
        return "is of batch normalisation, which these networks have not; it cannot be imported"
    if not isinstance(value, Tensor):
        return f"holds a {type(value).__name__}, wanted a tensor"
    if not value.is_floating_point():
        return f"holds {value.dtype}, wanted a floating type"
    if value.layout != torch.strided or value.device.type != "cpu":
        return "holds no dense tensor"
    return None


_ZIP = b"PK\x03\x04"
_PROTOCOL = 2
_PICKLES = 5
"""In a file of before torch 1.6: magic number, version, machine, the object, its storages."""
_NAMES = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage"
)


def _checked(path: Path, content: bytes) -> bytes:
    """The same archive, packed anew from members that are what their checksums say.

    torch ignores those, and reads a member as nothing where a flag calls it a directory. Files of
    before 1.6 are no archives, and have no checksums.
    """
    if not content.startswith(_ZIP):
        stream = io.BytesIO(content)
        for _ in range(_PICKLES):
            _require_plain(stream)
        return content
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as given, zipfile.ZipFile(packed, "w") as anew:
        members = given.infolist()
        require_size(sum(member.file_size for member in members), path, CheckpointError)
        if len({member.filename for member in members}) < len(members):
            raise ValueError("it has a member twice")
        for member in members:
            unpacked = given.read(member)
            if member.filename.lower().endswith(".pkl"):
                _require_plain(io.BytesIO(unpacked))
            anew.writestr(zipfile.ZipInfo(member.filename), unpacked)
    return packed.getvalue()


def _require_plain(stream: io.BytesIO) -> None:
    """UnpicklingError where a pickle names more than a state_dict needs: what `torch.load` allows
    besides can take any memory."""
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name == "GLOBAL" and not _NAMES.fullmatch(str(argument)):
            raise pickle.UnpicklingError(f"it names {argument}")
        if operation.name == "PROTO" and argument != _PROTOCOL:
            raise pickle.UnpicklingError(f"it is of protocol {argument}")


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
            content = read_regular(path, CheckpointError)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        weights[net] = read_weights(path, content)
        sha256[path.name] = hashlib.sha256(content).hexdigest()
    unread = tuple(f"{chosen}_net_{net}.pth" for net in sorted(by_epoch[chosen] - NETS[model]))
    return ReleasedFiles(options, model, chosen, weights, sha256, unread)


def _read_options(directory: Path) -> dict[str, Any]:
    path = directory / "train_opt.conf"
    try:
        options = json.loads(read_regular(path, CheckpointError, 1 << 22))
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
