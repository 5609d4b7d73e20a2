"""From the embeddings of present modalities to logits, with all that is constant folded away.

A pattern's head comes in two forms. `Head` takes embeddings, for graphs that see whole utterances.
For streams the same work is cut where modalities meet: a `Summary` holds all that one modality adds
and has to be made anew only when that modality moves on; a `StreamHead` adds summaries up and goes
on from there. The pattern's calibration temperature divides the last layers.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from ifmmin.export.stacks import Tail, copy_mlp
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.train.layers import MLP
from ifmmin.train.models import FusionNetwork, ImaginationNetwork
from ifmmin.train.network import FUSION_ORDER, EmotionNetwork


class _Rest(nn.Module):
    """What follows the starts, in both forms: chain and classifier."""

    def __init__(self, network: EmotionNetwork, constants: Constants) -> None:
        super().__init__()
        assert isinstance(network, FusionNetwork | ImaginationNetwork)
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
    """S, entry and rest of what is present."""

    def __init__(self, network: EmotionNetwork, pattern: Pattern) -> None:
        super().__init__()
        constants = Constants(network, pattern)
        self.invariant = _invariant(network)
        self.entry = pattern_entry(entry_weights(network), constants)
        self.rest = _Rest(network, constants)

    def forward(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Present embeddings (B, E) in fusion order -> logits (B, C)."""
        h = joined(embeddings)
        logits: Tensor = self.rest(self.entry(h, self._guide(h, len(embeddings))))
        return logits

    def _guide(self, h: Tensor, count: int) -> Tensor | None:
        if self.invariant is None:
            return None
        if count == 1:
            single: Tensor = self.invariant(h)
            return single
        width = h.shape[1] // count
        every: Tensor = self.invariant(h.reshape(-1, width))
        return every.reshape(-1, count * width)


class Summary(nn.Module):
    """What one modality adds to the starts of every pattern that has it: (B, P) -> (B, N)."""

    def __init__(self, network: EmotionNetwork, modality: Modality, encoder: ExportEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.invariant = _invariant(network)
        entry, slot = entry_weights(network), FUSION_ORDER.index(modality)
        own = entry.columns(slot, network.config.architecture.embedding)
        self.size = len(own.bias)
        self.entry = Entry(own.of_h, own.of_invariant, own.bias, own.blocks)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, P) -> (B, N)."""
        h = self.encoder.embed(pooled)
        return joined(self.entry(h, None if self.invariant is None else self.invariant(h)))


class StreamHead(nn.Module):
    """Summaries of present modalities, in any order -> logits (B, C)."""

    bias: Tensor

    def __init__(self, network: EmotionNetwork, pattern: Pattern) -> None:
        super().__init__()
        entry, constants = entry_weights(network), Constants(network, pattern)
        self.register_buffer("bias", constant_starts(entry, constants))
        self.block = len(self.bias) // entry.blocks
        self.rest = _Rest(network, constants)

    def forward(self, summaries: Sequence[Tensor]) -> Tensor:
        """(B, N) per present modality -> (B, C)."""
        total = self.bias
        for summary in summaries:
            total = total + summary
        logits: Tensor = self.rest(blocks_of(total, self.block))
        return logits


def _invariant(network: EmotionNetwork) -> MLP | None:
    return copy_mlp(network.invariant) if network.config.architecture.invariant else None
