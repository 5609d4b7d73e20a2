"""`specialise`: the smallest network that says exactly what the whole one says for a pattern."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ifmmin.export.encoders import latency_encoder
from ifmmin.export.heads import build_head
from ifmmin.runtime.modality import Pattern
from ifmmin.train.network import FUSION_ORDER, EmotionNetwork


class SpecialisedNetwork(nn.Module):
    """One pattern, one utterance: raw features (T, D) per present modality -> logits (C,).

    The inputs come in canonical order. What is left of the network is what the logits need:
    the encoders of present modalities and a head.
    """

    def __init__(self, network: EmotionNetwork, pattern: Pattern) -> None:
        super().__init__()
        self.pattern = pattern
        self.encoders = nn.ModuleDict({m.value: latency_encoder(network, m) for m in pattern})
        self.head = build_head(network, pattern)

    def forward(self, *features: Tensor) -> Tensor:
        """(T, D) per modality, canonical order -> (C,)."""
        given = dict(zip(self.pattern, features, strict=True))
        embeddings = [self.encoders[m.value](given[m]) for m in FUSION_ORDER if m in given]
        logits: Tensor = self.head(embeddings)
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
