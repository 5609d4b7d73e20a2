"""`specialise`: the smallest network that says exactly what the whole one says for a pattern."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from ifmmin.export.encoders import ExportEncoder, build_encoder
from ifmmin.export.heads import Head, StreamHead, Summary
from ifmmin.export.precision import FP32, Precision, halve
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.train.network import FUSION_ORDER, EmotionNetwork

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
        return self._answer(pooled).squeeze(0)

    def batch(self, features: Sequence[Tensor], lengths: Sequence[Tensor]) -> Tensor:
        """Padded utterances: (B, T, D) and (B,) per modality, canonical order -> (B, C)."""
        given = zip(self.pattern, features, lengths, strict=True)
        return self._answer({m: self._encoder(m).pool_batch(x, n) for m, x, n in given})

    def _answer(self, pooled: Mapping[Modality, Tensor]) -> Tensor:
        order = [m for m in FUSION_ORDER if m in pooled]
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
