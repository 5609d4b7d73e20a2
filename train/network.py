"""IF-MMIN and the stage-1 network it starts from, on padded batches of raw features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.batch import Batch
from ifmmin.train.config import ModelConfig
from ifmmin.train.encoders import Encoder, build_encoders
from ifmmin.train.imagination import Imagination
from ifmmin.train.layers import MLP, initialise

FUSION_ORDER: tuple[Modality, ...] = (Modality.A, Modality.T, Modality.V)
"""Order of the modalities inside h and H', the reference's; weights of its checkpoints need it."""

_TO_FUSION = [MODALITIES.index(m) for m in FUSION_ORDER]
_FROM_FUSION = [FUSION_ORDER.index(m) for m in MODALITIES]


class Output(NamedTuple):
    """What a network says about a batch."""

    logits: Tensor
    """(B, C)"""
    invariant: Tensor
    """H' = S(h): (B, M, E), canonical order."""
    imagined: Tensor | None
    """Embeddings imagined for the missing modalities: (B, M, E); None without imagination."""


class Normaliser(nn.Module):
    """Standardises raw features of one modality: (x - mean) / std, statistics (D,)."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return (x - self.mean) / self.std


class EmotionNetwork(nn.Module):
    """Encoders, invariant encoder S and dropout; subclasses add the way to the logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        architecture = config.architecture
        self.normalisers = nn.ModuleDict(
            {m.value: Normaliser(config.features[m].dim) for m in MODALITIES}
        )
        self.encoders = nn.ModuleDict({m.value: e for m, e in build_encoders(config).items()})
        widths = [architecture.embedding] * (architecture.invariant_layers + 1)
        self.invariant = MLP(widths, nn.LeakyReLU, end_active=True)

    def encoder(self, modality: Modality) -> Encoder:
        """The encoder of a modality."""
        encoder: Encoder = self.encoders[modality.value]  # type: ignore[assignment]
        return encoder

    def normaliser(self, modality: Modality) -> Normaliser:
        """The standardisation of a modality."""
        normaliser: Normaliser = self.normalisers[modality.value]  # type: ignore[assignment]
        return normaliser

    def missing_pooled(self, modality: Modality) -> Tensor:
        """Pooled encoding (1, P) of the all-zero input that stands for a missing modality."""
        feature = self.config.features[modality]
        length = feature.missing_length
        zeros = self.normaliser(modality).mean.new_zeros(1, length, feature.dim)
        return self.encoder(modality).pool(zeros, torch.tensor([length], device=zeros.device))

    def missing_embeddings(self) -> Tensor:
        """The embeddings (M, E) of missing modalities."""
        return torch.cat([self.encoder(m).embed(self.missing_pooled(m)) for m in MODALITIES])

    def embeddings(self, batch: Batch) -> Tensor:
        """(B, M, E), canonical order; absent modalities get the constant missing embedding."""
        return torch.stack([self._embedding(batch, m) for m in MODALITIES], dim=1)

    def _embedding(self, batch: Batch, modality: Modality) -> Tensor:
        encoder = self.encoder(modality)
        lengths = batch.lengths[modality]
        rows = lengths.nonzero()[:, 0]
        if len(rows) == 0:
            return encoder.embed(self.missing_pooled(modality).expand(len(lengths), -1))
        x = self.normaliser(modality)(batch.features[modality][rows, : int(lengths.max())])
        pooled = encoder.pool(x, lengths[rows])
        if len(rows) < len(lengths):
            # Only the utterances that have the modality go through the encoder.
            missing = self.missing_pooled(modality).expand(len(lengths), -1)
            pooled = missing.index_copy(0, rows, pooled)
        return encoder.embed(pooled)

    def head(self, h: Tensor) -> Output:
        """From embeddings (B, M, E) in canonical order to the answer."""
        raise RuntimeError(f"{type(self).__name__} has no head")

    def forward(self, batch: Batch) -> Output:
        """The answer to a batch of raw features."""
        return self.head(self.embeddings(batch))

    def parts(self) -> dict[str, nn.Module]:
        """The sub-networks whose gradients are clipped apart, as the reference does."""
        parts = {name: module for name, module in self.named_children() if name != "encoders"}
        del parts["normalisers"]
        return parts | {f"encoder_{name}": module for name, module in self.encoders.items()}

    def set_dropout(self, probability: float) -> None:
        """Set the dropout of the classifier."""
        classifier: MLP = self.get_submodule("classifier")  # type: ignore[assignment]
        classifier.dropout.p = probability


class FusionNetwork(EmotionNetwork):
    """Stage 1: a classifier on [h; H'], all modalities meant to be present."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        architecture = config.architecture
        sizes = (6 * architecture.embedding, *architecture.classifier_sizes, len(config.labels))
        self.classifier = MLP(sizes, nn.ReLU)
        initialise(self)

    def head(self, h: Tensor) -> Output:
        """Logits of [h; H'] in fusion order."""
        invariant = self.invariant(h)
        joined = torch.cat([_fusion_flat(h), _fusion_flat(invariant)], dim=1)
        return Output(self.classifier(joined), invariant, None)


class ImaginationNetwork(EmotionNetwork):
    """IF-MMIN, stage 2: a classifier on the latents of the imagination module."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        architecture = config.architecture
        self.imagination = Imagination(architecture)
        latent = architecture.blocks * architecture.block_sizes[-1]
        sizes = (latent, *architecture.classifier_sizes, len(config.labels))
        self.classifier = MLP(sizes, nn.ReLU)
        initialise(self)

    def head(self, h: Tensor) -> Output:
        """Logits of the latents, and the imagined embeddings."""
        invariant = self.invariant(h)
        latents, imagined = self.imagination(_fusion_flat(h), _fusion_flat(invariant))
        imagined = imagined.unflatten(1, (3, -1))[:, _FROM_FUSION]
        return Output(self.classifier(latents), invariant, imagined)


def _fusion_flat(h: Tensor) -> Tensor:
    """(B, M, E) in canonical order -> (B, 3E) in fusion order."""
    return h[:, _TO_FUSION].flatten(1)


def build_network(config: ModelConfig) -> EmotionNetwork:
    """The network that `config.architecture.model` names, freshly initialised."""
    if config.architecture.model == "fusion":
        return FusionNetwork(config)
    return ImaginationNetwork(config)
