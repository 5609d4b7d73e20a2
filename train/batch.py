"""Padded batches with lengths; length 0 says that a modality is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ifmmin.runtime.modality import MODALITIES, Modality, Pattern
from ifmmin.train.config import ModelConfig
from ifmmin.train.corpus import Utterance


@dataclass(frozen=True)
class Batch:
    """B utterances. Frames past a length are never read, whatever they hold."""

    features: dict[Modality, Tensor]
    """Per modality raw features (B, T_m, D_m)."""
    lengths: dict[Modality, Tensor]
    """Per modality frames (B,), int64; 0 where the modality is missing."""
    labels: Tensor
    """(B,) int64"""
    pooled: dict[Modality, Tensor] | None = None
    """Per modality pooled encodings (B, P), where they were computed before; features are then
    empty."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def present(self) -> Tensor:
        """(B, M) bool, canonical order."""
        return torch.stack([self.lengths[m] > 0 for m in MODALITIES], dim=1)

    def masked(self, keep: Tensor) -> Batch:
        """The same batch where only modalities with `keep` (B, M) bool are present."""
        lengths = {m: self.lengths[m] * keep[:, i] for i, m in enumerate(MODALITIES)}
        return replace(self, lengths=lengths)

    def to(self, dtype: torch.dtype) -> Batch:
        """The same batch with features of another floating type."""
        return replace(self, features={m: x.to(dtype) for m, x in self.features.items()})


def collate(utterances: Sequence[Utterance], config: ModelConfig) -> Batch:
    """Pad utterances to the longest of each modality, and to the network's minimum length.

    A present input below the minimum counts as having it: its padding are zero frames that the
    network sees, the same alone and in any batch.
    """
    features = {}
    lengths = {}
    for modality in MODALITIES:
        shortest = config.minimum_length(modality)
        arrays = [u.features.get(modality) for u in utterances]
        frames = [0 if x is None or len(x) == 0 else max(len(x), shortest) for x in arrays]
        shape = (len(arrays), max([shortest, *frames]), config.features[modality].dim)
        padded = np.zeros(shape, dtype=np.float32)
        for row, array in enumerate(arrays):
            if array is not None:
                padded[row, : len(array)] = array
        features[modality] = torch.from_numpy(padded)
        lengths[modality] = torch.tensor(frames)
    return Batch(features, lengths, torch.tensor([u.label for u in utterances]))


def pattern_mask(patterns: Sequence[Pattern]) -> Tensor:
    """(B, M) bool, true where a pattern has the modality."""
    return torch.tensor([[m in pattern for m in MODALITIES] for pattern in patterns])
