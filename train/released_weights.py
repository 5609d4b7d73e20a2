"""The tensors of one file of the reference: each is taken once, nothing may be left over."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ifmmin.runtime.errors import CheckpointError

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
        return f"{self.path}: key {self._prefix}{key}"


def read_weights(path: Path, content: bytes) -> Weights:
    """The tensors of a pickled state_dict, read so that nothing in it is run.

    CheckpointError for anything but a flat dictionary of finite, floating, dense tensors.
    """
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
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
            raise CheckpointError(f"{path}: key {key} {problem}")
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
    if not torch.isfinite(value).all():
        return "holds values that are not finite"
    if not torch.isfinite(value.float()).all():
        return "holds values beyond float32"
    return None
