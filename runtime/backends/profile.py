"""Profiles of engines: the sizes that each input may have; and a run on the smallest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..bundle import GraphEntry, ModalitySpec, ProfileSpec
from ..bundle.graph_file import TensorSpec
from ..errors import BundleError, InputError
from ..modality import Modality
from .base import Runner

Sizes = tuple[int, int, int]
"""Smallest, the one to be fast for, largest."""
Shape = tuple[int | str, ...]
"""A name stands for any size, the same wherever it occurs."""

PROFILED = frozenset({"onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx"})
"""Backends whose engines take the sizes of a profile only; all others take any."""
_MOST_ROWS = 64
BATCH: Sizes = (1, 8, _MOST_ROWS)
"""Utterances of a call."""
STREAMS: Sizes = (1, 1, _MOST_ROWS)
"""Streams that move on together: on a device there is one, and it must be fast."""
_TYPICAL_SECONDS = 5
"""A typical utterance: acted and conversational corpora have medians of 3 to 6 s."""
_TYPICAL_FRAMES = 25
"""The same where frames have no rate: as many words (or pieces of words) as fit in 5 to 10 s."""


def profile_of(
    entry: GraphEntry, modalities: Mapping[Modality, ModalitySpec], *, batch: Sizes = BATCH
) -> dict[str, ProfileSpec]:
    """Minimum, optimum and maximum of every input that has a symbolic size.

    Times go from a modality's `minimum_length` to its `verified_length`: TensorRT says nothing
    when a convolution gets fewer frames than its kernel. New frames of a step go from 1. `batch`
    counts utterances. Raises InputError for a batch that does not rise from at least 1, BundleError
    for a graph whose sizes the manifest does not tell.
    """
    if not 1 <= batch[0] <= batch[1] <= batch[2]:
        raise InputError(f"batch sizes are {batch}; three that rise from at least 1 were wanted")
    return {
        tensor.name: _profile(tensor, entry, modalities, batch)
        for tensor in entry.inputs
        if any(isinstance(size, str) for size in tensor.shape)
    }


def _profile(
    tensor: TensorSpec, entry: GraphEntry, modalities: Mapping[Modality, ModalitySpec], batch: Sizes
) -> ProfileSpec:
    axes: list[Sizes] = []
    for axis, size in enumerate(tensor.shape):
        if isinstance(size, int):
            axes.append((size, size, size))
        elif size == "B":
            axes.append(batch)
        elif size.startswith("T_"):
            axes.append(_time(_spec(Modality.of(size[2:]), entry, modalities)))
        else:
            axes.append(_step(tensor, axis, entry, modalities))
    minimum, optimum, maximum = zip(*axes, strict=True)
    return ProfileSpec(minimum=minimum, optimum=optimum, maximum=maximum)


def _time(spec: ModalitySpec) -> Sizes:
    shortest, longest = spec.minimum_length, spec.verified_length
    rate = spec.frame_rate
    typical = _TYPICAL_FRAMES if rate is None else round(_TYPICAL_SECONDS * rate)
    return (shortest, min(max(typical, shortest), longest), longest)


def _step(
    tensor: TensorSpec, axis: int, entry: GraphEntry, modalities: Mapping[Modality, ModalitySpec]
) -> Sizes:
    """New frames, or the last frames that a step keeps.

    A step of text needs as many frames, kept and new, as its largest kernel, which TensorRT does
    not check. So the kept ones are always one fewer than that, though a stream begins with none:
    `cutting.Frames` lets the graph make them of its first frames.
    """
    size = tensor.shape[axis]
    if entry.modality is not None:
        spec = _spec(entry.modality, entry, modalities)
        if size == "N":
            return (1, 1, spec.verified_length)
        if any(state.name == tensor.name for state in entry.states):
            kept = spec.minimum_length - 1
            return (kept, kept, kept)
    raise BundleError(
        f"input {tensor.name} of {entry.file} has a size {size!r} that this version does not know; "
        "update ifmmin or export the bundle again"
    )


def _spec(
    modality: Modality, entry: GraphEntry, modalities: Mapping[Modality, ModalitySpec]
) -> ModalitySpec:
    if modality not in modalities:
        raise BundleError(
            f"the manifest does not describe modality {modality}, which {entry.file} takes; "
            "export the bundle again"
        )
    return modalities[modality]


def check_profile(inputs: Mapping[str, Shape], profile: Mapping[str, ProfileSpec]) -> None:
    """InputError unless the profile fits the graph's inputs.

    TensorRT ignores a profile of an input that is not there, and takes unequal minima for sizes
    that the graph calls by one name.
    """
    for name in profile:
        if name not in inputs:
            raise InputError(
                f"the profile names an input {name!r}; the graph has {', '.join(inputs)}"
            )
    named: dict[str, tuple[str, Sizes]] = {}
    for name, shape in inputs.items():
        if name in profile:
            for size, sizes in zip(shape, _axes(name, shape, profile[name]), strict=True):
                _check_axis(name, size, sizes, named)
        elif any(isinstance(size, str) for size in shape):
            raise InputError(f"the profile lacks input {name}, whose shape {shape} has open sizes")


def _axes(name: str, shape: Shape, spec: ProfileSpec) -> list[Sizes]:
    if not len(shape) == len(spec.minimum) == len(spec.optimum) == len(spec.maximum):
        raise InputError(f"the profile of input {name} is {spec}; the graph's shape is {shape}")
    return list(zip(spec.minimum, spec.optimum, spec.maximum, strict=True))


def _check_axis(
    name: str, size: int | str, sizes: Sizes, named: dict[str, tuple[str, Sizes]]
) -> None:
    if not 0 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise InputError(
            f"the profile of input {name} has minimum, optimum and maximum {sizes}; "
            "sizes that rise were wanted"
        )
    if isinstance(size, int):
        if sizes != (size, size, size):
            raise InputError(f"the profile of input {name} has sizes {sizes}; it takes {size} only")
        return
    other, wanted = named.setdefault(size, (name, sizes))
    if sizes != wanted:
        raise InputError(
            f"the profile has {size} = {sizes} for input {name} and {wanted} for {other}; "
            "sizes of one name must be equal"
        )


def run_smallest(
    run: Runner, entry: GraphEntry, modalities: Mapping[Modality, ModalitySpec]
) -> None:
    """Run a graph on zeros; whatever it raises passes through. Lengths are 1."""
    profile = profile_of(entry, modalities, batch=(1, 1, 1))
    inputs = {}
    for tensor in entry.inputs:
        spec = profile.get(tensor.name)
        shape = tuple(int(size) for size in (spec.minimum if spec else tensor.shape))
        value = 1 if tensor.dtype == "int64" else 0
        inputs[tensor.name] = np.full(shape, value, np.dtype(tensor.dtype))
    run(inputs)
