"""From the embeddings of present modalities to logits, with all that is constant folded away.

In every head the columns of absent modalities meet constants, so they become part of a bias.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ifmmin.export.folds import affine, columns, compose, weights
from ifmmin.runtime.modality import MODALITIES, Pattern
from ifmmin.train.layers import MLP
from ifmmin.train.network import (
    FUSION_ORDER,
    EmotionNetwork,
    FusionNetwork,
    ImaginationNetwork,
)


class _Constants:
    """Which fusion slots are present, and what stands in the others."""

    def __init__(self, network: EmotionNetwork, pattern: Pattern) -> None:
        with torch.no_grad():
            missing = network.missing_embeddings()
            invariant = network.invariant(missing)
        self.width = missing.shape[1]
        self.present = [i for i, m in enumerate(FUSION_ORDER) if m in pattern]
        self.absent = [i for i, m in enumerate(FUSION_ORDER) if m not in pattern]
        rows = [MODALITIES.index(FUSION_ORDER[i]) for i in self.absent]
        self.h = missing[rows].flatten()
        self.invariant = invariant[rows].flatten()

    def keep(self, matrix: Tensor) -> Tensor:
        """The columns of a matrix over h or H' that belong to present modalities."""
        return columns(matrix, self.present, self.width)

    def shift(self, matrix: Tensor, constant: Tensor) -> Tensor:
        """What the columns of absent modalities add to the bias."""
        return columns(matrix, self.absent, self.width) @ constant


class _Head(nn.Module):
    """S on the present embeddings; subclasses add the rest."""

    def __init__(self, network: EmotionNetwork, count: int) -> None:
        super().__init__()
        self.invariant = _copy(network.invariant)
        self.count = count

    def joined(self, embeddings: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Present h and H' in fusion order: each (B, p E)."""
        if self.count == 1:
            return embeddings[0], self.invariant(embeddings[0])
        h = torch.cat(list(embeddings), dim=1)
        width = embeddings[0].shape[1]
        invariant = self.invariant(h.reshape(-1, width)).reshape(-1, self.count * width)
        return h, invariant


class FusionHead(_Head):
    """Head of the stage-1 network: a classifier on [h; H']."""

    def __init__(self, network: FusionNetwork, pattern: Pattern) -> None:
        super().__init__(network, len(pattern))
        constants = _Constants(network, pattern)
        self.classifier = _copy(network.classifier)
        weight, bias = weights(self.classifier.linears[0])
        on_h, on_invariant = weight.chunk(2, dim=1)
        bias = bias + constants.shift(on_h, constants.h)
        bias = bias + constants.shift(on_invariant, constants.invariant)
        kept = torch.cat([constants.keep(on_h), constants.keep(on_invariant)], dim=1)
        self.classifier.linears[0] = affine(kept, bias)

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Present embeddings (B, E) in fusion order -> (B, C)."""
        return _run(self.classifier, torch.cat(self.joined(embeddings), dim=1))


class CascadeHead(_Head):
    """Head of the cascade: transition and last decoder gone, each decoder's last Linear composed
    with the next encoder's first, and the K products of H' taken as one."""

    def __init__(self, network: ImaginationNetwork, pattern: Pattern) -> None:
        super().__init__(network, len(pattern))
        constants = _Constants(network, pattern)
        encoders = _mlps(network.imagination.encoders)
        decoders = _mlps(network.imagination.decoders)
        firsts = [encoder.linears[0] for encoder in encoders]
        self.guide = affine(
            torch.cat([constants.keep(weights(first)[0]) for first in firsts]), None
        )
        weight, bias = weights(firsts[0])
        bias = bias + constants.shift(weight, constants.h + constants.invariant)
        entries = [affine(constants.keep(weight), bias)]
        for first, decoder in zip(firsts[1:], decoders, strict=False):
            entry_weight, entry_bias = weights(compose(first, decoder.linears[-1]))
            shift = constants.shift(weights(first)[0], constants.invariant)
            entries.append(affine(entry_weight, entry_bias + shift))
        self.entries = nn.ModuleList(entries)
        self.sizes = [entry.out_features for entry in entries]
        self.encoders = nn.ModuleList([_tail(encoder, 1, None) for encoder in encoders])
        self.decoders = nn.ModuleList([_tail(decoder, 0, -1) for decoder in decoders[:-1]])
        self.classifier = _copy(network.classifier)

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Present embeddings (B, E) in fusion order -> (B, C)."""
        x, invariant = self.joined(embeddings)
        guides = self.guide(invariant).split(self.sizes, dim=1)
        latents: list[Tensor] = []
        for index, (entry, encoder) in enumerate(zip(self.entries, self.encoders, strict=True)):
            if index:
                x = self.decoders[index - 1](latents[-1])
            latents.append(encoder(entry(x) + guides[index]))
        return _run(self.classifier, torch.cat(latents, dim=1))


class ParallelHead(_Head):
    """Head of the parallel form, where every decoder is dead: z_k = Enc_k(h + k H')."""

    def __init__(self, network: ImaginationNetwork, pattern: Pattern) -> None:
        super().__init__(network, len(pattern))
        constants = _Constants(network, pattern)
        encoders = _mlps(network.imagination.encoders)
        kept, biases = [], []
        for k, encoder in enumerate(encoders, start=1):
            weight, bias = weights(encoder.linears[0])
            kept.append(torch.cat([constants.keep(weight), k * constants.keep(weight)], dim=1))
            biases.append(bias + constants.shift(weight, constants.h + k * constants.invariant))
        self.entry = affine(torch.cat(kept), torch.cat(biases))
        self.sizes = [len(bias) for bias in biases]
        self.encoders = nn.ModuleList([_tail(encoder, 1, None) for encoder in encoders])
        self.classifier = _copy(network.classifier)

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Present embeddings (B, E) in fusion order -> (B, C)."""
        entries = self.entry(torch.cat(self.joined(embeddings), dim=1))
        starts = entries.split(self.sizes, dim=1)
        latents = [encoder(x) for encoder, x in zip(self.encoders, starts, strict=True)]
        return _run(self.classifier, torch.cat(latents, dim=1))


def build_head(network: EmotionNetwork, pattern: Pattern) -> nn.Module:
    """The head of a pattern for any of our networks."""
    if isinstance(network, FusionNetwork):
        return FusionHead(network, pattern)
    assert isinstance(network, ImaginationNetwork)
    if network.imagination.form == "cascade":
        return CascadeHead(network, pattern)
    return ParallelHead(network, pattern)


class _Tail(nn.Module):
    """Layers of an MLP from one position to another.

    Of an encoder: the activation comes before each layer, since its first layer ran elsewhere.
    Of a decoder: after each, since its last layer runs elsewhere.
    """

    def __init__(self, mlp: MLP, first: int, last: int | None) -> None:
        super().__init__()
        self.linears = nn.ModuleList([affine(*weights(x)) for x in mlp.linears[first:last]])
        self.activation = mlp.activation
        self.before = first > 0

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.linears:
            x = linear(self.activation(x)) if self.before else self.activation(linear(x))
        return x


def _tail(mlp: MLP, first: int, last: int | None) -> _Tail:
    return _Tail(mlp, first, last)


def _mlps(modules: nn.ModuleList) -> list[MLP]:
    return [module for module in modules if isinstance(module, MLP)]


def _copy(mlp: MLP) -> MLP:
    """The MLP without its dropout."""
    made = copy.deepcopy(mlp)
    made.dropout.p = 0.0
    return made


def _run(classifier: MLP, x: Tensor) -> Tensor:
    logits: Tensor = classifier(x)
    return logits
