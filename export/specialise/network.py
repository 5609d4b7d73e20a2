"""Specialised network: the smallest that says exactly what the whole one says for a pattern.

Heads go from the embeddings of present modalities to logits; what is constant is folded away.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.train.model.models import FusionNetwork, ImaginationNetwork
from ifmmin.train.model.network import MLP, EmotionNetwork, fusion_order

from . import ExportEncoder, build_encoder
from .encoder import FP32, Precision, halve
from .fold import (
    Constants,
    Entry,
    Tail,
    blocks_of,
    build_chain,
    constant_starts,
    copy_mlp,
    entry_weights,
    joined,
    pattern_entry,
)


class _Rest(nn.Module):
    """What follows the starts, in both forms: chain and classifier."""

    def __init__(self, network: EmotionNetwork, constants: Constants) -> None:
        super().__init__()
        assert isinstance(network, FusionNetwork | ImaginationNetwork)
        self.chain = build_chain(network)
        classifier = copy_mlp(network.classifier)
        constants.apply_temperature(classifier)
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
        entry = entry_weights(network)
        slot = fusion_order(network.modalities).index(modality)
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


M = TypeVar("M", bound=nn.Module)


class SpecialisedNetwork(nn.Module):
    """One pattern: raw features of the present modalities -> logits.

    The inputs come in canonical order. What is left of the network is what the logits need: the
    encoders of present modalities and a head.
    """

    def __init__(
        self,
        network: EmotionNetwork,
        pattern: Pattern,
        precision: Precision = FP32,
        recurrence: str = "lstm",
    ) -> None:
        super().__init__()
        self.pattern = pattern
        self.classes = len(network.config.labels)
        encoders = {m.value: build_encoder(network, m, precision, recurrence) for m in pattern}
        self.encoders = nn.ModuleDict(encoders)
        self.summaries: nn.ModuleDict | None = None
        if precision.apart:
            summaries = {m.value: Summary(network, m, encoders[m.value]) for m in pattern}
            self.summaries = nn.ModuleDict(summaries)
        self.head = (StreamHead if precision.apart else Head)(network, pattern)

    def forward(self, *features: Tensor) -> Tensor:
        """One utterance: (T, D) per modality, canonical order -> (C,)."""
        given = dict(zip(self.pattern, features, strict=True))
        pooled = {m: self._encoder(m).pool(x) for m, x in given.items()}
        # Not `squeeze`: where the exporter does not know the rank it would draw a choice (`If`).
        return self._answer(pooled).reshape(self.classes)

    def batch(self, features: Sequence[Tensor], lengths: Sequence[Tensor]) -> Tensor:
        """Padded utterances: (B, T, D) and (B,) per modality, canonical order -> (B, C)."""
        given = zip(self.pattern, features, lengths, strict=True)
        return self._answer({m: self._encoder(m).pool_batch(x, n) for m, x, n in given})

    def _answer(self, pooled: Mapping[Modality, Tensor]) -> Tensor:
        order = fusion_order(pooled)
        if self.summaries is None:
            said = [self._encoder(m).embed(pooled[m]) for m in order]
        else:
            said = [self.summaries[m.value](pooled[m]) for m in order]
        logits: Tensor = self.head(said)
        return logits.float() if logits.dtype == torch.float16 else logits

    def _encoder(self, modality: Modality) -> ExportEncoder:
        encoder: ExportEncoder = self.encoders[modality.value]  # type: ignore[assignment]
        return encoder


def specialise(
    network: EmotionNetwork,
    pattern: Pattern,
    dtype: torch.dtype | None = None,
    precision: Precision = FP32,
    recurrence: str = "lstm",
) -> SpecialisedNetwork:
    """The network specialised to a pattern, in eval mode; `network` is left alone.

    dtype: of the result, default that of the network; half precisions start from float32. Folding
    is done in float64, and a result of float64 equals the network in float64 to rounding (1e-12).
    """
    made = SpecialisedNetwork(exact(network), pattern, precision, recurrence)
    return finish(made, dtype or next(network.parameters()).dtype, precision)


def stream_encoder(
    network: EmotionNetwork,
    modality: Modality,
    dtype: torch.dtype | None = None,
    precision: Precision = FP32,
) -> ExportEncoder:
    """The encoder of a modality alone, for step graphs."""
    made = build_encoder(exact(network), modality, precision)
    return finish(made, dtype or next(network.parameters()).dtype, precision)


def stream_summary(
    network: EmotionNetwork,
    modality: Modality,
    dtype: torch.dtype | None = None,
    precision: Precision = FP32,
) -> Summary:
    """What a modality adds to every head, for summary graphs."""
    whole = exact(network)
    made = Summary(whole, modality, build_encoder(whole, modality, precision))
    return finish(made, dtype or next(network.parameters()).dtype, precision)


def stream_head(
    network: EmotionNetwork,
    pattern: Pattern,
    dtype: torch.dtype | None = None,
    precision: Precision = FP32,
) -> StreamHead:
    """The head of a pattern on summaries, for head graphs."""
    made = StreamHead(exact(network), pattern)
    return finish(made, dtype or next(network.parameters()).dtype, precision)


def exact(network: EmotionNetwork) -> EmotionNetwork:
    """A copy in float64 and eval mode."""
    return copy.deepcopy(network).double().eval()


def finish(module: M, dtype: torch.dtype, precision: Precision) -> M:
    """To the dtype of a graph."""
    module = module.requires_grad_(False).eval().to(dtype)
    if precision.half:
        halve(module)
    return module
