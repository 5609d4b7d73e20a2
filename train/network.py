"""What all networks share: encoders, the invariant encoder, the meaning of missing."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ifmmin.runtime.errors import CheckpointError
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Modality
from ifmmin.train.batch import Batch
from ifmmin.train.config import ModelConfig
from ifmmin.train.corpus import Corpus
from ifmmin.train.encoders import Encoder, build_encoders
from ifmmin.train.frames import Normaliser, transform
from ifmmin.train.layers import ACTIVATION, MLP
from ifmmin.train.statistics import StatisticsEncoder, time_mask

FUSION_ORDER: tuple[Modality, ...] = (Modality.A, Modality.T, Modality.V)
"""Order of the modalities inside h and H', the reference's; weights of its checkpoints need it."""
_BITS = torch.tensor([2**i for i in range(len(MODALITIES))])
_PATTERN_OF_BITS = torch.zeros(2 ** len(MODALITIES), dtype=torch.int64)
for _index, _pattern in enumerate(ALL_PATTERNS):
    _PATTERN_OF_BITS[sum(2**i for i, m in enumerate(MODALITIES) if m in _pattern)] = _index


def pattern_index(present: Tensor) -> Tensor:
    """(B, M) bool, something present everywhere -> (B,) positions in ALL_PATTERNS."""
    return _PATTERN_OF_BITS[(present * _BITS).sum(dim=1)]


class Output(NamedTuple):
    """What a network says about a batch."""

    logits: Tensor
    """(B, C)"""
    invariant: Tensor | None = None
    """H' = S(h): (B, M, E), canonical order; None without an invariant encoder."""
    imagined: Tensor | None = None
    """Embeddings imagined for the missing modalities: (B, M, E); None without imagination."""


class EmotionNetwork(nn.Module):
    """Encoders and invariant encoder S; subclasses add the way to the logits.

    `reference_batches` makes padding and missing modalities what they are in the reference: zeros
    of the batch's own length that run through the encoders. It is a way of training and measuring,
    not part of a checkpoint: what is deployed sees one utterance and a constant.
    """

    temperatures: Tensor
    """Of every pattern (7,), in the order of ALL_PATTERNS; fitted after training."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.reference_batches = False
        architecture = config.architecture
        self.normalisers = nn.ModuleDict(
            {m.value: Normaliser(config.frame_width(m)) for m in MODALITIES}
        )
        self.encoders = nn.ModuleDict({m.value: e for m, e in build_encoders(config).items()})
        if architecture.invariant:
            self.invariant = MLP(
                [architecture.embedding] * (architecture.invariant_layers + 1),
                ACTIVATION[architecture.invariant_activation],
                end_active=architecture.invariant_end_active,
            )
        self.register_buffer("temperatures", torch.ones(len(ALL_PATTERNS)))

    def encoder(self, modality: Modality) -> Encoder:
        """The encoder of a modality."""
        encoder: Encoder = self.encoders[modality.value]  # type: ignore[assignment]
        return encoder

    def normaliser(self, modality: Modality) -> Normaliser:
        """The standardisation of a modality's frames."""
        normaliser: Normaliser = self.normalisers[modality.value]  # type: ignore[assignment]
        return normaliser

    @property
    def pools_once(self) -> bool:
        """Whether pooling has no trained weights, so that an utterance is pooled once for all."""
        return all(isinstance(self.encoder(m), StatisticsEncoder) for m in MODALITIES)

    def missing_pooled(self, modality: Modality, length: int | None = None) -> Tensor:
        """Pooled encoding (1, P) that stands for a missing modality.

        length: frames of the all-zero input; default the configured one.
        """
        feature = self.config.features[modality]
        width = self.config.frame_width(modality)
        return self.encoder(modality).missing(width, length or feature.missing_length)

    def missing_embeddings(self) -> Tensor:
        """The embeddings (M, E) of missing modalities."""
        return torch.cat([self.embed(self.missing_pooled(m), m) for m in MODALITIES])

    def absent_embeddings(self, batch: Batch) -> Tensor:
        """What stands for missing modalities in a batch (M, E): constants, but for the reference
        the encoding of zeros as long as the batch."""
        if not self.reference_batches:
            return self.missing_embeddings()
        lengths = {m: batch.features[m].shape[1] for m in MODALITIES}
        return torch.cat([self.embed(self.missing_pooled(m, lengths[m]), m) for m in MODALITIES])

    def embeddings(self, batch: Batch) -> Tensor:
        """h (B, M, E), canonical order; absent modalities get the constant missing embedding."""
        return torch.stack([self.embed(self._pooled(batch, m), m) for m in MODALITIES], dim=1)

    def embed(self, pooled: Tensor, modality: Modality) -> Tensor:
        """Pooled encodings (B, P) -> (B, E)."""
        return self.encoder(modality).embed(pooled)

    def pool(self, batch: Batch, modality: Modality, rows: Tensor) -> Tensor:
        """Pooled encoding (N, P) of the utterances `rows` (N,), which must have the modality."""
        if batch.pooled is not None:
            return batch.pooled[modality][rows]
        lengths = batch.lengths[modality][rows]
        x = self.frames(batch.features[modality][rows, : int(lengths.max())], modality)
        return self.encoder(modality).pool(x, lengths)

    def frames(self, raw: Tensor, modality: Modality) -> Tensor:
        """Raw frames (..., D) transformed and standardised."""
        config = self.config.architecture.transforms.get(modality)
        standard: Tensor = self.normaliser(modality)(transform(raw, config))
        return standard

    def pool_or_missing(self, batch: Batch, modality: Modality) -> Tensor:
        """Pooled encoding (B, P) of all, the constant where the modality is missing."""
        count = len(batch)
        rows = batch.lengths[modality].nonzero()[:, 0]
        if len(rows) == count:
            return self.pool(batch, modality, rows)
        # Only the utterances that have the modality go through the encoder.
        pooled = self.missing_pooled(modality).expand(count, -1)
        if len(rows):
            pooled = pooled.index_copy(0, rows, self.pool(batch, modality, rows))
        return pooled

    def _pooled(self, batch: Batch, modality: Modality) -> Tensor:
        if self.reference_batches:
            return self._reference_pooled(batch, modality)
        return self.pool_or_missing(batch, modality)

    def _reference_pooled(self, batch: Batch, modality: Modality) -> Tensor:
        x = self.frames(batch.features[modality], modality)
        frames = x.shape[1]
        inside = time_mask(batch.lengths[modality], frames)[..., None]
        every = torch.full_like(batch.lengths[modality], frames)
        return self.encoder(modality).pool(x.masked_fill(~inside, 0.0), every)

    def require_corpus(self, corpus: Corpus) -> None:
        """CheckpointError unless a corpus has this network's classes and widths."""
        if corpus.labels != self.config.labels:
            raise CheckpointError(
                f"the checkpoint answers {', '.join(self.config.labels)}, corpus {corpus.name} has "
                f"{', '.join(corpus.labels)}; they must be the same in the same order"
            )
        for modality in MODALITIES:
            ours, theirs = self.config.features[modality].dim, corpus.features[modality].dim
            if ours != theirs:
                raise CheckpointError(
                    f"the checkpoint takes {ours} features of {modality}, corpus {corpus.name} has "
                    f"{theirs}; give the features that it was trained on"
                )

    def head(self, h: Tensor, present: Tensor) -> Output:
        """From h (B, M, E) in canonical order to logits; present: (B, M) bool."""
        raise RuntimeError(f"{type(self).__name__} has no head")

    def forward(self, batch: Batch) -> Output:
        """The answer to a batch of raw features, before calibration."""
        return self.head(self.embeddings(batch), batch.present)

    def answer(self, batch: Batch) -> Tensor:
        """Calibrated logits (B, C): what a deployed graph says."""
        return self.calibrated(self(batch).logits, batch.present)

    def calibrated(self, logits: Tensor, present: Tensor) -> Tensor:
        """Logits (B, C) over the temperature of each utterance's pattern; present: (B, M) bool."""
        return logits / self.temperatures[pattern_index(present)][:, None]

    def parts(self) -> dict[str, nn.Module]:
        """The sub-networks whose gradients are clipped apart, as the reference does."""
        parts = {name: module for name, module in self.named_children() if name != "encoders"}
        parts |= {f"encoder_{name}": module for name, module in self.encoders.items()}
        return {name: part for name, part in parts.items() if any(True for _ in part.parameters())}

    def set_dropout(self, probability: float) -> None:
        """Set the dropout of the classifier, and of S where the configuration says so."""
        names = ["classifier"]
        if self.config.architecture.invariant and self.config.architecture.invariant_dropout:
            names.append("invariant")
        for name in names:
            stack: MLP = self.get_submodule(name)  # type: ignore[assignment]
            stack.dropout.p = probability
