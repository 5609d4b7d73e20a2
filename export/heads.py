"""From the embeddings of present modalities to logits, with all that is constant folded away.

In every head the columns of absent modalities meet constants, so they become part of a bias; the
pattern's calibration temperature divides the last layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ifmmin.export.constants import Constants, Evidence
from ifmmin.export.folds import affine, compose, weights
from ifmmin.export.stacks import Tail, copy_mlp, mlps
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Pattern
from ifmmin.train.linear import LinearNetwork
from ifmmin.train.models import FusionNetwork, ImaginationNetwork
from ifmmin.train.network import FUSION_ORDER, EmotionNetwork


class Head(nn.Module):
    """S, evidence and classifier; subclasses say what the classifier sees."""

    def __init__(self, network: FusionNetwork | ImaginationNetwork, constants: Constants) -> None:
        super().__init__()
        architecture = network.config.architecture
        self.count = len(constants.present)
        self.invariant = copy_mlp(network.invariant) if architecture.invariant else None
        weighs = architecture.evidence != "none"
        self.evidence = Evidence(network, constants) if weighs else None
        self.classifier = copy_mlp(network.classifier)
        constants.cool(self.classifier)

    def forward(self, embeddings: Sequence[Tensor], pooled: Sequence[Tensor] = ()) -> Tensor:
        """Present embeddings (B, E) and pooled values (B, P_m) in fusion order -> (B, C)."""
        logits: Tensor = self.classifier(self.features(embeddings))
        return logits if self.evidence is None else logits + self.evidence(embeddings, pooled)

    def features(self, embeddings: Sequence[Tensor]) -> Tensor:
        """What goes into the classifier, (B, F)."""
        raise RuntimeError(f"{type(self).__name__} has no features")

    def joined(self, embeddings: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Present h and H' in fusion order: each (B, p E)."""
        assert self.invariant is not None
        if self.count == 1:
            return embeddings[0], self.invariant(embeddings[0])
        h = torch.cat(list(embeddings), dim=1)
        width = embeddings[0].shape[1]
        invariant = self.invariant(h.reshape(-1, width)).reshape(-1, self.count * width)
        return h, invariant


class FusionHead(Head):
    """Head of a network without imagination: a classifier on [h; H'] or on h."""

    def __init__(self, network: FusionNetwork, constants: Constants) -> None:
        super().__init__(network, constants)
        weight, bias = weights(self.classifier.linears[0])
        blocks = weight.chunk(2 if self.invariant is not None else 1, dim=1)
        for block, constant in zip(blocks, (constants.h, constants.invariant), strict=False):
            bias = bias + constants.shift(block, constant)
        kept = torch.cat([constants.keep(block) for block in blocks], dim=1)
        self.classifier.linears[0] = affine(kept, bias)

    def features(self, embeddings: Sequence[Tensor]) -> Tensor:
        """[h; H'] of what is present."""
        if self.invariant is None:
            return torch.cat(list(embeddings), dim=1)
        return torch.cat(self.joined(embeddings), dim=1)


class CascadeHead(Head):
    """Head of the cascade: transition and last decoder gone, each decoder's last Linear composed
    with the next encoder's first, and the K products of H' taken as one."""

    def __init__(self, network: ImaginationNetwork, constants: Constants) -> None:
        super().__init__(network, constants)
        encoders = mlps(network.imagination.encoders)
        decoders = mlps(network.imagination.decoders)
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
        self.encoders = nn.ModuleList([Tail(encoder, 1, None) for encoder in encoders])
        self.decoders = nn.ModuleList([Tail(decoder, 0, -1) for decoder in decoders[:-1]])

    def features(self, embeddings: Sequence[Tensor]) -> Tensor:
        """The latents."""
        x, invariant = self.joined(embeddings)
        guides = self.guide(invariant).split(self.sizes, dim=1)
        latents: list[Tensor] = []
        for index, (entry, encoder) in enumerate(zip(self.entries, self.encoders, strict=True)):
            if index:
                x = self.decoders[index - 1](latents[-1])
            latents.append(encoder(entry(x) + guides[index]))
        return torch.cat(latents, dim=1)


class ParallelHead(Head):
    """Head of the parallel form, where every decoder is dead: z_k = Enc_k(h + k H')."""

    def __init__(self, network: ImaginationNetwork, constants: Constants) -> None:
        super().__init__(network, constants)
        encoders = mlps(network.imagination.encoders)
        kept, biases = [], []
        for k, encoder in enumerate(encoders, start=1):
            weight, bias = weights(encoder.linears[0])
            kept.append(torch.cat([constants.keep(weight), k * constants.keep(weight)], dim=1))
            biases.append(bias + constants.shift(weight, constants.h + k * constants.invariant))
        self.entry = affine(torch.cat(kept), torch.cat(biases))
        self.sizes = [len(bias) for bias in biases]
        self.encoders = nn.ModuleList([Tail(encoder, 1, None) for encoder in encoders])

    def features(self, embeddings: Sequence[Tensor]) -> Tensor:
        """The latents."""
        entries = self.entry(torch.cat(self.joined(embeddings), dim=1))
        starts = entries.split(self.sizes, dim=1)
        latents = [encoder(x) for encoder, x in zip(self.encoders, starts, strict=True)]
        return torch.cat(latents, dim=1)


class ResidualHead(Head):
    """Head of MMIN, where every block sees h and the outputs of all blocks before it.

    W_k (h + sum_{j<k} o_j): the products with h are taken as one, and each decoder's last Linear is
    composed with the first of all encoders after it.
    """

    def __init__(self, network: ImaginationNetwork, constants: Constants) -> None:
        super().__init__(network, constants)
        encoders = mlps(network.imagination.encoders)
        decoders = mlps(network.imagination.decoders)[:-1]
        pairs = [weights(encoder.linears[0]) for encoder in encoders]
        self.entry = affine(
            torch.cat([constants.keep(weight) for weight, _ in pairs]),
            torch.cat([bias + constants.shift(weight, constants.h) for weight, bias in pairs]),
        )
        self.size = len(pairs[0][1])
        self.spreads = nn.ModuleList()
        for j, decoder in enumerate(decoders):
            after = torch.cat([weight for weight, _ in pairs[j + 1 :]])
            zero = after.new_zeros(len(after))
            self.spreads.append(compose(affine(after, zero), decoder.linears[-1]))
        self.encoders = nn.ModuleList([Tail(encoder, 1, None) for encoder in encoders])
        self.decoders = nn.ModuleList([Tail(decoder, 0, -1) for decoder in decoders])

    def features(self, embeddings: Sequence[Tensor]) -> Tensor:
        """The latents."""
        starts = list(self.entry(torch.cat(list(embeddings), dim=1)).split(self.size, dim=1))
        latents: list[Tensor] = []
        for j, encoder in enumerate(self.encoders):
            latents.append(encoder(starts[j]))
            if j < len(self.decoders):
                spread = self.spreads[j](self.decoders[j](latents[-1])).split(self.size, dim=1)
                starts[j + 1 :] = [x + y for x, y in zip(starts[j + 1 :], spread, strict=True)]
        return torch.cat(latents, dim=1)


class LinearHead(nn.Module):
    """Head of the linear specialist: the regression of the pattern."""

    def __init__(self, network: LinearNetwork, pattern: Pattern, constants: Constants) -> None:
        super().__init__()
        index = ALL_PATTERNS.index(pattern)
        blocks = []
        for slot in constants.present:
            modality = FUSION_ORDER[slot]
            size = network.encoder(modality).pooled_size
            blocks.append(network.weight[index, :, MODALITIES.index(modality), :size])
        weight, bias = torch.cat(blocks, dim=1).detach(), network.bias[index].detach()
        self.linear = affine(weight / constants.temperature, bias / constants.temperature)

    def forward(self, embeddings: Sequence[Tensor], pooled: Sequence[Tensor] = ()) -> Tensor:
        """Present statistics (B, P_m) in fusion order -> (B, C)."""
        logits: Tensor = self.linear(torch.cat(list(embeddings), dim=1))
        return logits


def build_head(network: EmotionNetwork, pattern: Pattern) -> nn.Module:
    """The head of a pattern for any of our networks."""
    constants = Constants(network, pattern)
    if isinstance(network, LinearNetwork):
        return LinearHead(network, pattern, constants)
    if isinstance(network, FusionNetwork):
        return FusionHead(network, constants)
    assert isinstance(network, ImaginationNetwork)
    heads = {"cascade": CascadeHead, "parallel": ParallelHead, "residual": ResidualHead}
    return heads[network.imagination.form](network, constants)
