"""What every corpus gives, whatever its layout: labelled utterances in three parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import Modality, Pattern
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
    mean = np.asarray(sum(x.sum(axis=0, dtype=np.float64) for x in frames) / count)
    variance = np.asarray(sum(((x - mean) ** 2).sum(axis=0) for x in frames) / count)
    return Statistics(mean, _no_zero(np.sqrt(variance)))


def column_statistics(values: NDArray[np.floating]) -> Statistics:
    """Mean and deviation (P,) of the columns of (N, P); a constant column gets deviation 1."""
    exact = values.astype(np.float64)
    return Statistics(exact.mean(axis=0), _no_zero(exact.std(axis=0)))


def _no_zero(std: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where a deviation is zero, or so small that it is the rounding of a constant."""
    return np.where(std > 1e-9, std, 1.0)
