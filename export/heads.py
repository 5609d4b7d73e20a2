"""From the embeddings of present modalities to logits, with all that is constant folded away.

A pattern's head comes in two forms. `Head` takes embeddings, for graphs that see whole utterances.
For streams the same work is cut where modalities meet: a `Summary` holds all that one modality adds
and has to be made anew only when that modality moves on; a `StreamHead` adds summaries up and goes
on from there. The pattern's calibration temperature divides the last layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ifmmin.export.chains import build_chain
from ifmmin.export.constants import Constants
from ifmmin.export.encoders import ExportEncoder
from ifmmin.export.entry import (
    Entry,
    blocks_of,
    constant_starts,
    entry_weights,
    joined,
    pattern_entry,
)
from ifmmin.export.folds import affine, weights
from ifmmin.export.stacks import Tail, copy_mlp
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Modality, Pattern
from ifmmin.train.linear import LinearNetwork
from ifmmin.train.models import FusionNetwork, ImaginationNetwork
from ifmmin.train.network import FUSION_ORDER, EmotionNetwork


class _Rest(nn.Module):
    """What follows the starts, in both forms: chain and classifier."""

    def __init__(self, network: FusionNetwork | ImaginationNetwork, constants: Constants) -> None:
        super().__init__()
        self.chain = build_chain(network)
        classifier = copy_mlp(network.classifier)
        constants.cool(classifier)
        # Where nothing is imagined its first layer is the entry; what is left begins with the
        # activation.
        fuses = isinstance(network, FusionNetwork)
        self.classifier = Tail(classifier, 1, None) if fuses else classifier

    def forward(self, starts: Sequence[Tensor]) -> Tensor:
        """Blocks (B, n) -> logits (B, C)."""
        logits: Tensor = self.classifier(self.chain(starts))
        return logits


class Head(nn.Module):
    """S, entry, rest and evidence of what is present."""

    def __init__(self, network: FusionNetwork | ImaginationNetwork, constants: Constants) -> None:
        super().__init__()
        architecture = network.config.architecture
        self.invariant = copy_mlp(network.invariant) if architecture.invariant else None
        self.entry = pattern_entry(entry_weights(network), constants)
        self.rest = _Rest(network, constants)
        self.of_pooled = architecture.evidence == "pooled"
        self.evidence = None
        if architecture.evidence != "none":
            pairs = [weights(network.evidence[m.value]) for m in constants.modalities]
            weight = torch.cat([weight for weight, _ in pairs], dim=1)
            bias = torch.stack([bias for _, bias in pairs]).sum(dim=0)
            self.evidence = affine(weight / constants.temperature, bias / constants.temperature)

    def forward(self, embeddings: Sequence[Tensor], pooled: Sequence[Tensor]) -> Tensor:
        """Present embeddings (B, E) and pooled values (B, P_m) in fusion order -> (B, C)."""
        h = joined(embeddings)
        logits: Tensor = self.rest(self.entry(h, self._invariant(h, len(embeddings))))
        if self.evidence is not None:
            logits = logits + self.evidence(joined(pooled) if self.of_pooled else h)
        return logits

    def _invariant(self, h: Tensor, count: int) -> Tensor | None:
        if self.invariant is None:
            return None
        if count == 1:
            single: Tensor = self.invariant(h)
            return single
        width = h.shape[1] // count
        every: Tensor = self.invariant(h.reshape(-1, width))
        return every.reshape(-1, count * width)


class LinearHead(nn.Module):
    """Head of the linear specialist, in both forms: the regression of the pattern."""

    def __init__(self, network: LinearNetwork, pattern: Pattern, constants: Constants) -> None:
        super().__init__()
        index = ALL_PATTERNS.index(pattern)
        blocks = []
        for modality in constants.modalities:
            size = network.encoder(modality).pooled_size
            blocks.append(network.weight[index, :, MODALITIES.index(modality), :size])
        weight, bias = torch.cat(blocks, dim=1).detach(), network.bias[index].detach()
        self.linear = affine(weight / constants.temperature, bias / constants.temperature)

    def forward(self, embeddings: Sequence[Tensor], pooled: Sequence[Tensor] = ()) -> Tensor:
        """Present statistics (B, P_m) in fusion order -> (B, C)."""
        logits: Tensor = self.linear(joined(embeddings))
        return logits


class Summary(nn.Module):
    """What one modality adds to the starts of every pattern that has it: (B, P) -> (B, N + C).

    Its last C values, where the network weighs evidence, are what it says alone. The linear
    specialist has other weights under every pattern; there it is the pooled values themselves.
    """

    def __init__(self, network: EmotionNetwork, modality: Modality, encoder: ExportEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.entry: Entry | None = None
        if isinstance(network, LinearNetwork):
            return
        assert isinstance(network, FusionNetwork | ImaginationNetwork)
        architecture = network.config.architecture
        self.invariant = copy_mlp(network.invariant) if architecture.invariant else None
        entry, slot = entry_weights(network), FUSION_ORDER.index(modality)
        own = entry.columns(slot, architecture.embedding)
        self.entry = Entry(own.of_h, own.of_invariant, own.bias, own.blocks)
        self.of_pooled = architecture.evidence == "pooled"
        weighs = architecture.evidence != "none"
        self.evidence = affine(*weights(network.evidence[modality.value])) if weighs else None

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, P) -> (B, N + C), or (B, P) of the linear specialist."""
        h = self.encoder.embed(pooled)
        if self.entry is None:
            return h
        invariant = None if self.invariant is None else self.invariant(h)
        parts = self.entry(h, invariant)
        if self.evidence is not None:
            parts.append(self.evidence(pooled if self.of_pooled else h))
        return joined(parts)


class StreamHead(nn.Module):
    """Summaries of present modalities, in any order -> logits (B, C)."""

    bias: Tensor

    def __init__(self, network: FusionNetwork | ImaginationNetwork, constants: Constants) -> None:
        super().__init__()
        entry = entry_weights(network)
        bias = constant_starts(entry, constants)
        self.size = len(bias) // entry.blocks
        self.temperature = None
        if network.config.architecture.evidence != "none":
            self.temperature = float(constants.temperature)
            bias = torch.cat([bias, bias.new_zeros(len(network.config.labels))])
        self.classes = len(network.config.labels)
        self.register_buffer("bias", bias)
        self.rest = _Rest(network, constants)

    def forward(self, summaries: Sequence[Tensor], pooled: Sequence[Tensor] = ()) -> Tensor:
        """(B, N + C) per present modality -> (B, C)."""
        total = self.bias
        for summary in summaries:
            total = total + summary
        if self.temperature is None:
            logits: Tensor = self.rest(blocks_of(total, self.size))
            return logits
        sizes = [len(self.bias) - self.classes, self.classes]
        starts, said = torch.split(total, sizes, dim=1)
        answered: Tensor = self.rest(blocks_of(starts, self.size)) + said / self.temperature
        return answered


def build_head(network: EmotionNetwork, pattern: Pattern, *, stream: bool = False) -> nn.Module:
    """The head of a pattern for any of our networks, on embeddings or on summaries."""
    constants = Constants(network, pattern)
    if isinstance(network, LinearNetwork):
        return LinearHead(network, pattern, constants)
    assert isinstance(network, FusionNetwork | ImaginationNetwork)
    return StreamHead(network, constants) if stream else Head(network, constants)
