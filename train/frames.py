"""What happens to raw frames before any encoder: a transform, then standardisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ifmmin.runtime.modality import Modality
from ifmmin.train.config import TransformConfig
from ifmmin.train.corpus import Corpus, Statistics, Utterance, training_statistics

_SMALLEST_LENGTH = 1e-12


class Normaliser(nn.Module):
    """Standardises frames of one modality: (x - mean) / std, statistics (D,)."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return (x - self.mean) / self.std

    def take(self, statistics: Statistics) -> None:
        """Standardise by these from now on."""
        self.mean.copy_(torch.from_numpy(statistics.mean))
        self.std.copy_(torch.from_numpy(statistics.std))


def transform(x: Tensor, config: TransformConfig | None) -> Tensor:
    """Raw frames (..., D) scaled to unit length and raised to signed powers: (..., D * powers)."""
    if config is None:
        return x
    if config.unit:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        x = x / length.clamp_min(_SMALLEST_LENGTH)
    raised = [x if p == 1.0 else x.sign() * x.abs().pow(p) for p in config.powers]
    return raised[0] if len(raised) == 1 else torch.cat(raised, dim=-1)


def untransform(y: NDArray[np.floating], config: TransformConfig | None) -> NDArray[np.floating]:
    """Raw frames (..., D) whose transform has the values of `y` (..., D * powers) for the largest
    power, but for their length where the transform gives unit length."""
    if config is None:
        return y
    largest = int(np.argmax(config.powers))
    chosen = np.split(y, len(config.powers), axis=-1)[largest]
    return np.asarray(np.sign(chosen) * np.abs(chosen) ** (1.0 / config.powers[largest]))


def frame_statistics(
    corpus: Corpus, modality: Modality, config: TransformConfig | None
) -> Statistics:
    """The corpus's own statistics where nothing is transformed; else, or where it has none, those
    of the transformed training frames."""
    if config is None and modality in corpus.statistics:
        return corpus.statistics[modality]
    return training_statistics(_transformed(corpus.parts["train"], modality, config), modality)


def _transformed(
    utterances: Sequence[Utterance], modality: Modality, config: TransformConfig | None
) -> Sequence[Utterance]:
    if config is None:
        return utterances
    made = []
    for utterance in utterances:
        if modality in utterance.features:
            raw = torch.from_numpy(utterance.features[modality].astype(np.float32))
            moved = {modality: transform(raw, config).numpy()}
            made.append(Utterance(utterance.name, moved, utterance.label))
    return made
