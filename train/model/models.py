"""Models: IF-MMIN, MMIN and CIF-MMIN, which imagine, those that fuse, the linear specialist."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import Modality, Pattern

from ..config import ModelConfig
from ..data.corpus import Utterance
from ..metrics import measure
from .encoders import PairedEncoder
from .loader import BatchLoader
from .network import (
    MLP,
    EmotionNetwork,
    Imagination,
    Output,
    fusion_order,
    initialise,
    pattern_index,
)

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Inverse strengths C of the L2 penalty that are tried."""
_AT_ONCE = 64


class LinearNetwork(EmotionNetwork):
    """Logits of a pattern p = W_p [s_m for m in p] + b_p, s_m the standardised statistics.

    Embeddings are the statistics themselves, padded with zeros to a common width E; the weights
    (7, C, M, E) are zero where a pattern lacks a modality and in the padding.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.width = max(self.encoder(m).pooled_size for m in config.modalities)
        classes = len(config.labels)
        patterns = len(config.patterns)
        shape = (patterns, classes, len(config.modalities), self.width)
        self.weight = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(patterns, classes))

    def embed(self, pooled: Tensor, modality: Modality) -> Tensor:
        """(B, P) -> (B, E), padded with zeros."""
        return nn.functional.pad(pooled, (0, self.width - pooled.shape[1]))

    def head(self, h: Tensor, present: Tensor) -> Output:
        """Each utterance's logits by the regression of its pattern."""
        every = torch.einsum("bme,pcme->bpc", h, self.weight) + self.bias
        return Output(every[torch.arange(len(h)), pattern_index(present)])


def fit_linear(
    network: LinearNetwork, train: Sequence[Utterance], validation: Sequence[Utterance]
) -> None:
    """Fit every pattern's regression (L2, balanced classes) on the utterances that have all of it.

    Its strength C is the one of STRENGTHS with the best validation UA, the smallest of equals.
    """
    parts = [_Part.of(network, utterances) for utterances in (train, validation)]
    for index, pattern in enumerate(network.config.patterns):
        inside = [network.modalities.index(m) for m in pattern]
        fitted, held_out = (part.having(inside) for part in parts)
        _require_classes(fitted.labels, network.config.labels, pattern)
        weight, bias = _best(fitted, held_out)
        with torch.no_grad():
            network.weight[index][:, inside] = torch.from_numpy(
                weight.reshape(-1, len(inside), network.width)
            ).float()
            network.bias[index] = torch.from_numpy(bias).float()


@dataclass(frozen=True)
class _Part:
    """Statistics (N, M, E), what is present (N, M) and labels (N,) of some utterances."""

    h: NDArray[np.float64]
    present: NDArray[np.bool_]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, network: LinearNetwork, utterances: Sequence[Utterance]) -> _Part:
        batches = list(BatchLoader(network, utterances).in_order(_AT_ONCE))
        with torch.no_grad():
            h = torch.cat([network.embeddings(batch) for batch in batches]).double()
        present = torch.cat([batch.present for batch in batches])
        labels = torch.cat([batch.labels for batch in batches])
        return cls(h.numpy(), present.numpy(), labels.numpy())

    def having(self, inside: list[int]) -> _Part:
        """The utterances that have all of some modalities, and only those of their statistics."""
        rows = self.present[:, inside].all(axis=1)
        h = self.h[rows][:, inside].reshape(int(rows.sum()), len(inside) * self.h.shape[-1])
        return _Part(h, self.present[rows], self.labels[rows])


def _best(fitted: _Part, held_out: _Part) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (C, F) and biases (C,) of the strength that validation prefers."""
    from sklearn.linear_model import LogisticRegression

    best, chosen = -1.0, (np.empty(0), np.empty(0))
    for strength in STRENGTHS:
        regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=5000)
        regression.fit(fitted.h, fitted.labels)
        weight, bias = np.asarray(regression.coef_), np.asarray(regression.intercept_)
        if len(weight) == 1:  # two classes: scikit-learn gives the log-odds of the second
            weight, bias = np.concatenate([-weight, weight]) / 2, np.append(-bias, bias) / 2
        if not len(held_out.labels):
            return weight, bias
        figure = measure(held_out.h @ weight.T + bias, held_out.labels).ua
        if figure > best:
            best, chosen = figure, (weight, bias)
    return chosen


def _require_classes(labels: NDArray[np.int64], names: Sequence[str], pattern: Pattern) -> None:
    lacking = [name for index, name in enumerate(names) if index not in labels]
    if lacking:
        raise CorpusError(
            f"no training utterance of class {', '.join(lacking)} has pattern {pattern}"
        )


class FusionNetwork(EmotionNetwork):
    """Stage 1 and the baselines without imagination: a classifier on [h; H'], or on h alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        architecture = config.architecture
        inputs = len(config.modalities) * architecture.embedding
        inputs *= 2 if architecture.invariant else 1
        sizes = (inputs, *architecture.classifier_sizes, len(config.labels))
        self.classifier = MLP(sizes, nn.ReLU)
        initialise(self)

    def head(self, h: Tensor, present: Tensor) -> Output:
        """Logits of [h; H'] in fusion order."""
        invariant = self.invariant(h) if self.config.architecture.invariant else None
        joined = fusion_flat(h, self.modalities)
        if invariant is not None:
            joined = torch.cat([joined, fusion_flat(invariant, self.modalities)], dim=1)
        return Output(self.classifier(joined), invariant)


class ImaginationNetwork(EmotionNetwork):
    """IF-MMIN and MMIN, stage 2: a classifier on the latents of the imagination module."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        architecture = config.architecture
        form = architecture.imagination if architecture.invariant else "residual"
        self.imagination = Imagination(architecture, form, len(config.modalities))
        latent = architecture.blocks * architecture.block_sizes[-1]
        sizes = (latent, *architecture.classifier_sizes, len(config.labels))
        self.classifier = MLP(sizes, nn.ReLU)
        self.guide_dropout = nn.Dropout(architecture.guide_dropout)
        initialise(self)

    def head(self, h: Tensor, present: Tensor) -> Output:
        """Logits of the latents, and the imagined embeddings."""
        invariant = self.invariant(h) if self.config.architecture.invariant else None
        modalities, guide = self.modalities, None
        if invariant is not None:
            guide = self.guide_dropout(fusion_flat(invariant, modalities))
        latents, imagined = self.imagination(self.guide_dropout(fusion_flat(h, modalities)), guide)
        return Output(self.classifier(latents), invariant, from_fusion(imagined, modalities))


class _PairedNetwork(EmotionNetwork):
    """CIF-MMIN: embeddings (B, M, 2E) are h, and H' beside it, by encoders of the frames.

    Liu, Zuo, Lian, Schuller and Li, IEEE Trans. Affective Computing 15(4), 2024.
    """

    def _classifier(self, inputs: int) -> MLP:
        sizes = (inputs, *self.config.architecture.classifier_sizes, len(self.config.labels))
        return MLP(sizes, nn.ReLU)

    @property
    def _width(self) -> int:
        return len(self.modalities) * self.config.architecture.embedding

    def specific(self, h: Tensor) -> Tensor:
        """(..., 2E) -> (..., E)."""
        return h.chunk(2, dim=-1)[0]

    def parts(self) -> dict[str, nn.Module]:
        """As ever, the second encoders apart from the first."""
        parts = super().parts()
        for name, part in tuple(parts.items()):
            if isinstance(part, PairedEncoder):
                parts |= {name: part.specific, f"invariant_{name}": part.invariant}
        return parts


class ContrastiveNetwork(_PairedNetwork):
    """CIF-MMIN, stage 1: a classifier on h, while H' is taught by contrast alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.classifier = self._classifier(self._width)
        initialise(self)

    def head(self, h: Tensor, present: Tensor) -> Output:
        """Logits of h, in fusion order."""
        specific, invariant = h.chunk(2, dim=-1)
        return Output(self.classifier(fusion_flat(specific, self.modalities)), invariant)


class ContrastiveImagination(_PairedNetwork):
    """CIF-MMIN, stage 2: a classifier on h + imagined."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.imagination = Imagination(config.architecture, "summed", len(config.modalities))
        self.classifier = self._classifier(self._width)
        initialise(self)

    def head(self, h: Tensor, present: Tensor) -> Output:
        """Logits of h and what is imagined, added up."""
        specific, invariant = h.chunk(2, dim=-1)
        given, guide = (fusion_flat(x, self.modalities) for x in (specific, invariant))
        imagined = self.imagination(given, guide)[1]
        logits = self.classifier(given + imagined)
        return Output(logits, invariant, from_fusion(imagined, self.modalities))


def from_fusion(flat: Tensor, modalities: Sequence[Modality]) -> Tensor:
    """(B, ME) in fusion order -> (B, M, E) of `modalities`, in canonical order."""
    order = fusion_order(modalities)
    split = flat.reshape(len(flat), len(order), flat.shape[1] // len(order))
    return split[:, [order.index(m) for m in modalities]]


def fusion_flat(h: Tensor, modalities: Sequence[Modality]) -> Tensor:
    """(B, M, E) of `modalities`, in canonical order -> (B, ME) in fusion order."""
    return h[:, [modalities.index(m) for m in fusion_order(modalities)]].flatten(1)


def build_network(config: ModelConfig) -> EmotionNetwork:
    """The network that `config.architecture.model` names, freshly initialised."""
    if config.architecture.model == "linear":
        return LinearNetwork(config)
    if config.architecture.contrasts:
        return ContrastiveImagination(config)
    if config.architecture.imagines:
        return ImaginationNetwork(config)
    return FusionNetwork(config)


def network_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's tensors, for which no memory is taken."""
    with torch.device("meta"):
        network = build_network(config)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def network_bytes(config: ModelConfig) -> int:
    """Bytes of a network's tensors in float32."""
    return sum(4 * math.prod(shape) for shape in network_shapes(config).values())
