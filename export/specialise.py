"""`specialise`: the smallest network that says exactly what the whole one says for a pattern."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ifmmin.export.encoders import LatencyEncoder, latency_encoder
from ifmmin.export.heads import build_head
from ifmmin.runtime.modality import Pattern
from ifmmin.train.frames import transform
from ifmmin.train.network import FUSION_ORDER, EmotionNetwork


class SpecialisedNetwork(nn.Module):
    """One pattern, one utterance: raw features (T, D) per present modality -> logits (C,).

    The inputs come in canonical order. What is left of the network is what the logits need:
    the encoders of present modalities and a head.
    """

    def __init__(self, network: EmotionNetwork, pattern: Pattern) -> None:
        super().__init__()
        self.pattern = pattern
        self.transforms = network.config.architecture.transforms
        self.encoders = nn.ModuleDict({m.value: latency_encoder(network, m) for m in pattern})
        self.head = build_head(network, pattern)

    def forward(self, *features: Tensor) -> Tensor:
        """(T, D) per modality, canonical order -> (C,)."""
        given = dict(zip(self.pattern, features, strict=True))
        embeddings, pooled = [], []
        for modality in (m for m in FUSION_ORDER if m in given):
            encoder: LatencyEncoder = self.encoders[modality.value]  # type: ignore[assignment]
            frames = transform(given[modality], self.transforms.get(modality))
            pooled.append(encoder.pool(frames))
            embeddings.append(encoder.embed(pooled[-1]))
        logits: Tensor = self.head(embeddings, pooled)
        return logits.squeeze(0)


def specialise(
    network: EmotionNetwork, pattern: Pattern, dtype: torch.dtype | None = None
) -> SpecialisedNetwork:
    """The network specialised to a pattern, in eval mode; `network` is left alone.

    dtype: of the result; default that of the network. Folding is done in float64 either way, and
    the result of float64 equals the network in float64 to rounding (1e-12).
    """
    exact = copy.deepcopy(network).double().eval()
    made = SpecialisedNetwork(exact, pattern).requires_grad_(False).eval()
    return made.to(dtype or next(network.parameters()).dtype)
