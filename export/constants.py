"""What is constant under a pattern: the embeddings of absent modalities and the temperature."""

from __future__ import annotations

import torch
from torch import Tensor

from ifmmin.export.folds import affine, columns, weights
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Pattern
from ifmmin.train.layers import MLP
from ifmmin.train.network import FUSION_ORDER, EmotionNetwork


class Constants:
    """Which fusion slots are present, what stands in the others, and the pattern's temperature."""

    def __init__(self, network: EmotionNetwork, pattern: Pattern) -> None:
        self.present = [i for i, m in enumerate(FUSION_ORDER) if m in pattern]
        self.absent = [i for i, m in enumerate(FUSION_ORDER) if m not in pattern]
        self.temperature = network.temperatures[ALL_PATTERNS.index(pattern)]
        rows = [MODALITIES.index(FUSION_ORDER[i]) for i in self.absent]
        with torch.no_grad():
            missing = network.missing_embeddings()
            self.width = missing.shape[1]
            self.h = missing[rows].flatten()
            if network.config.architecture.invariant:
                self.invariant = network.invariant(missing)[rows].flatten()
            else:
                self.invariant = torch.zeros_like(self.h)

    def keep(self, matrix: Tensor) -> Tensor:
        """The columns of a matrix over h or H' that belong to present modalities."""
        return columns(matrix, self.present, self.width)

    def shift(self, matrix: Tensor, constant: Tensor) -> Tensor:
        """What the columns of absent modalities add to the bias."""
        return columns(matrix, self.absent, self.width) @ constant

    def cool(self, mlp: MLP) -> None:
        """Divide what a classifier says by the temperature, in its last layer."""
        weight, bias = weights(mlp.linears[-1])
        mlp.linears[-1] = affine(weight / self.temperature, bias / self.temperature)
