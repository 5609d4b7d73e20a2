"""What every corpus gives, whatever its layout: labelled utterances in three parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import MODALITIES, Modality, Pattern
from ifmmin.train.config import FeatureConfig

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Utterance:
    """One labelled utterance; a modality that it lacks is naturally missing."""

    name: str
    features: dict[Modality, NDArray[np.floating]]
    """Per modality raw features (T, D), in the compact type in which they were stored."""
    label: int


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation (D,) with which a modality is standardised."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


@dataclass(frozen=True)
class Corpus:
    """One fold of a corpus."""

    name: str
    labels: tuple[str, ...]
    features: dict[Modality, FeatureConfig]
    parts: dict[str, list[Utterance]]
    """`train`, `validation`, `test`; speakers of one never occur in another."""
    statistics: dict[Modality, Statistics] = field(default_factory=dict)
    """For the modalities to be standardised; others are taken as they are."""
    possible: dict[Pattern, float] = field(default_factory=dict)
    """Accuracy of the Bayes rule on the test part, where it is known."""


def training_statistics(utterances: Sequence[Utterance], modality: Modality) -> Statistics:
    """Statistics over all frames of the modality; a constant feature gets deviation 1."""
    frames = [u.features[modality] for u in utterances if modality in u.features]
    count = sum(len(x) for x in frames)
    if count == 0:
        raise CorpusError(f"no training utterance has modality {modality}; nothing to standardise")
    mean = sum(x.sum(axis=0, dtype=np.float64) for x in frames) / count
    variance = sum(((x - mean) ** 2).sum(axis=0) for x in frames) / count
    std = np.sqrt(np.asarray(variance))
    return Statistics(np.asarray(mean), np.where(std > 0, std, 1.0))


def check_utterance(utterance: Utterance, features: dict[Modality, FeatureConfig]) -> None:
    """CorpusError naming the utterance when a width is wrong or a value is not finite."""
    for modality in MODALITIES:
        array = utterance.features.get(modality)
        if array is None:
            continue
        dim = features[modality].dim
        if array.ndim != 2 or array.shape[1] != dim:
            raise CorpusError(
                f"utterance {utterance.name}, modality {modality}: got shape {array.shape}, "
                f"wanted (frames, {dim})"
            )
        if not np.isfinite(array).all():
            frame, column = np.argwhere(~np.isfinite(array))[0]
            raise CorpusError(
                f"utterance {utterance.name}, modality {modality}: {array[frame, column]} at "
                f"frame {frame}, column {column}; features must be finite"
            )
