"""The models: IF-MMIN and MMIN, which imagine, and the networks that only fuse."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ifmmin.runtime.modality import MODALITIES
from ifmmin.train.config import ModelConfig
from ifmmin.train.imagination import Imagination
from ifmmin.train.layers import MLP, initialise
from ifmmin.train.linear import LinearNetwork
from ifmmin.train.network import FUSION_ORDER, EmotionNetwork, Output

_TO_FUSION = [MODALITIES.index(m) for m in FUSION_ORDER]
_FROM_FUSION = [FUSION_ORDER.index(m) for m in MODALITIES]


class FusionNetwork(EmotionNetwork):
    """Stage 1 and the baselines without imagination: a classifier on [h; H'], or on h alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        architecture = config.architecture
        inputs = (6 if architecture.invariant else 3) * architecture.embedding
        sizes = (inputs, *architecture.classifier_sizes, len(config.labels))
        self.classifier = MLP(sizes, nn.ReLU)
        initialise(self)

    def head(self, h: Tensor, present: Tensor) -> Output:
        """Logits of [h; H'] in fusion order."""
        invariant = self.invariant(h) if self.config.architecture.invariant else None
        joined = fusion_flat(h)
        if invariant is not None:
            joined = torch.cat([joined, fusion_flat(invariant)], dim=1)
        return Output(self.classifier(joined), invariant)


class ImaginationNetwork(EmotionNetwork):
    """IF-MMIN and MMIN, stage 2: a classifier on the latents of the imagination module."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        architecture = config.architecture
        form = architecture.imagination if architecture.invariant else "residual"
        self.imagination = Imagination(architecture, form)
        latent = architecture.blocks * architecture.block_sizes[-1]
        sizes = (latent, *architecture.classifier_sizes, len(config.labels))
        self.classifier = MLP(sizes, nn.ReLU)
        self.guide_dropout = nn.Dropout(architecture.guide_dropout)
        initialise(self)

    def head(self, h: Tensor, present: Tensor) -> Output:
        """Logits of the latents, and the imagined embeddings."""
        invariant = self.invariant(h) if self.config.architecture.invariant else None
        guide = None if invariant is None else self.guide_dropout(fusion_flat(invariant))
        latents, imagined = self.imagination(self.guide_dropout(fusion_flat(h)), guide)
        imagined = imagined.unflatten(1, (3, -1))[:, _FROM_FUSION]
        return Output(self.classifier(latents), invariant, imagined)


def fusion_flat(h: Tensor) -> Tensor:
    """(B, M, E) in canonical order -> (B, 3E) in fusion order."""
    return h[:, _TO_FUSION].flatten(1)


def build_network(config: ModelConfig) -> EmotionNetwork:
    """The network that `config.architecture.model` names, freshly initialised."""
    if config.architecture.model == "linear":
        return LinearNetwork(config)
    if config.architecture.imagines:
        return ImaginationNetwork(config)
    return FusionNetwork(config)
