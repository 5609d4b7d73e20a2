"""Missing modality as a constant: how its embedding changes with the number of zeros."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import torch

from ifmmin.runtime.bundle import MissingSpec
from ifmmin.runtime.errors import CheckpointError
from ifmmin.runtime.modality import Modality
from ifmmin.train.checkpoint import Header
from ifmmin.train.model.network import EmotionNetwork

from ..specialise.network import exact

TOLERANCE = 1e-3
"""Change of an embedding below which it has settled; its values are of the order of 1."""
_LONGER = 4
"""Lengths are looked at up to so many times the canonical one, and to _AT_LEAST."""
_AT_LEAST = 200


def measure_missing(network: EmotionNetwork) -> dict[Modality, MissingSpec]:
    """How each absent embedding converges as its all-zero input gets longer.

    The deviation is of longer inputs from the canonical one, so it says what an answer would lose
    if the reference's batches, whose zeros have any length, were taken for the truth.
    """
    whole = exact(network)
    return {m: _measure(whole, m) for m in network.modalities}


def _measure(network: EmotionNetwork, modality: Modality) -> MissingSpec:
    canonical = network.config.features[modality].missing_length
    shortest = network.config.minimum_length(modality)
    longest = max(_LONGER * canonical, _AT_LEAST)
    with torch.no_grad():
        # Every length up to twice the canonical one, so that a state that swings is seen.
        lengths = [*range(shortest, 2 * canonical + 1), longest - 1, longest]
        found = [network.embed(network.missing_pooled(modality, n), modality) for n in lengths]
        embeddings = torch.cat(found)
    last = (embeddings - embeddings[-1]).abs().amax(dim=1)
    moving = (last > TOLERANCE).nonzero()[:, 0].tolist()
    settles = not moving or moving[-1] < len(lengths) - 2
    settled_at = None
    if settles:
        settled_at = lengths[moving[-1] + 1] if moving else lengths[0]
    own = embeddings[lengths.index(canonical)]
    later = embeddings[lengths.index(canonical) :]
    return MissingSpec(
        length=canonical,
        deviation=float((later - own).abs().max()),
        settled_at=settled_at,
        tolerance=TOLERANCE,
    )


def with_missing_frames(network: EmotionNetwork, frames: Mapping[Modality, int]) -> None:
    """Take other canonical lengths, in place; CheckpointError where one is too short."""
    features = dict(network.config.features)
    for modality, count in frames.items():
        if modality not in features:
            raise CheckpointError(
                f"--missing-frames {modality}={count}: the network takes {', '.join(features)} only"
            )
        shortest = network.config.minimum_length(modality)
        if count < shortest:
            raise CheckpointError(
                f"--missing-frames {modality}={count}: the network wants at least {shortest}"
            )
        features[modality] = msgspec.structs.replace(features[modality], missing_length=count)
    network.config = msgspec.structs.replace(network.config, features=features)


def require_settled(
    header: Header, found: Mapping[Modality, MissingSpec], chosen: Collection[Modality]
) -> None:
    """CheckpointError where an imported network has no constant for a missing modality.

    A network trained here saw exactly this constant; the research code's networks saw zeros as long
    as the batch, so there the constant is right only as far as the embedding settles. chosen: the
    modalities whose length was given explicitly.
    """
    imported: Any = header.training.get("imported")
    if not isinstance(imported, dict):
        return
    given = {*chosen, *imported.get("missing_frames", ())}
    for modality, spec in found.items():
        settled = spec.settled_at is not None and spec.settled_at <= spec.length
        if settled or modality in given:
            continue
        state = (
            f"settles only after {spec.settled_at}"
            if spec.settled_at is not None
            else "never settles"
        )
        raise CheckpointError(
            f"a missing {modality} is {spec.length} zero frames through the encoder of this "
            f"imported checkpoint, whose embedding {state} (it moves by {spec.deviation:.2g}, "
            f"allowed {spec.tolerance:g}); say how many frames stand for it, "
            f"e.g. --missing-frames {modality}=45"
        )
