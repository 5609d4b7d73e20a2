"""Network base: encoders, invariant encoder, imagination, and the meaning of a missing modality.

Imagination is a chain of residual autoencoders from h to the missing embeddings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ifmmin.runtime.errors import CheckpointError
from ifmmin.runtime.modality import MODALITIES, Modality, patterns_of

from ..config import Architecture, ModelConfig
from ..data.corpus import Batch, Corpus
from .encoders import (
    Encoder,
    Normaliser,
    Observed,
    StatisticsEncoder,
    build_encoders,
    time_mask,
    transform,
)

ACTIVATION: Mapping[str, type[nn.Module]] = {
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


class MLP(nn.Module):
    """Linear layers with `activation` between them, and after the last one if `end_active`.

    Dropout follows every activation.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: type[nn.Module],
        *,
        end_active: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.linears = nn.ModuleList(
            [nn.Linear(before, after) for before, after in pairwise(sizes)]
        )
        self.activation = activation()
        self.dropout = nn.Dropout(dropout)
        self.end_active = end_active

    def forward(self, x: Tensor) -> Tensor:
        """(..., sizes[0]) -> (..., sizes[-1])."""
        last = len(self.linears) - 1
        for index, linear in enumerate(self.linears):
            x = linear(x)
            if index < last or self.end_active:
                x = self.dropout(self.activation(x))
        return x


def initialise(module: nn.Module) -> None:
    """Kaiming-normal weights (fan_in, a = 0) and zero biases, LSTMs as PyTorch makes them."""
    for name, parameter in module.named_parameters():
        if ".rnn." in name or name.startswith("rnn."):
            continue
        if parameter.dim() < 2:
            nn.init.zeros_(parameter)
        else:
            fan_in = parameter[0].numel()
            with torch.no_grad():
                parameter.normal_(0.0, (2.0 / fan_in) ** 0.5)


class Imagination(nn.Module):
    """K blocks z_k = Enc_k(.), o_k = Dec_k(z_k), and the transition to the imagined embeddings.

    cascade:  o_0 = h, z_k = Enc_k(o_{k-1} + H'), o_k = Dec_k(z_k), imagined = transition(o_K).
    parallel: z_k = Enc_k(h + k H'), imagined = transition(h + K H' + Dec_K(z_K)).
    summed (CIF-MMIN): as cascade, but imagined = transition(o_{K-1} + H' + o_K).
    residual (MMIN, no H'): x_1 = h, x_{k+1} = x_k + o_k, imagined = transition(x_{K+1}).
    """

    def __init__(self, architecture: Architecture, form: str, modalities: int) -> None:
        super().__init__()
        self.form = form
        width = modalities * architecture.embedding
        sizes = (width, *architecture.block_sizes)
        self.encoders = nn.ModuleList(
            [MLP(sizes, nn.LeakyReLU) for _ in range(architecture.blocks)]
        )
        # In the parallel form only the last decoder is ever read.
        count = 1 if form == "parallel" else architecture.blocks
        self.decoders = nn.ModuleList([MLP(sizes[::-1], nn.ReLU) for _ in range(count)])
        self.transition = MLP((width, width, width), nn.ReLU)

    def forward(self, h: Tensor, invariant: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, ME), (B, ME) in fusion order -> latents (B, K * size), imagined (B, ME).

        invariant: H', None in the residual form.
        """
        if invariant is None:
            latents, output = self._residual(h)
        elif self.form == "parallel":
            latents, output = self._parallel(h, invariant)
        else:
            latents, output = self._cascade(h, invariant)
        return torch.cat(latents, dim=-1), self.transition(output)

    def _cascade(self, h: Tensor, invariant: Tensor) -> tuple[list[Tensor], Tensor]:
        latents = []
        x, output = h, h
        for encoder, decoder in zip(self.encoders, self.decoders, strict=True):
            x = output + invariant
            latents.append(encoder(x))
            output = decoder(latents[-1])
        return latents, x + output if self.form == "summed" else output

    def _parallel(self, h: Tensor, invariant: Tensor) -> tuple[list[Tensor], Tensor]:
        latents = []
        x = h
        for encoder in self.encoders:
            x = x + invariant
            latents.append(encoder(x))
        return latents, x + self.decoders[0](latents[-1])

    def _residual(self, h: Tensor) -> tuple[list[Tensor], Tensor]:
        latents = []
        x = h
        for encoder, decoder in zip(self.encoders, self.decoders, strict=True):
            latents.append(encoder(x))
            x = x + decoder(latents[-1])
        return latents, x


FUSION_ORDER: tuple[Modality, ...] = (Modality.A, Modality.T, Modality.V)
"""Order of the modalities inside h and H', the reference's; weights of its checkpoints need it."""


def fusion_order(modalities: Collection[Modality]) -> tuple[Modality, ...]:
    """Some modalities in the order of `FUSION_ORDER`."""
    return tuple(m for m in FUSION_ORDER if m in modalities)


_BITS = torch.tensor([2**i for i in range(len(MODALITIES))])


def _positions(count: int) -> Tensor:
    """Of every set of `count` modalities, as a number, its position among their patterns, which is
    the same whichever they are."""
    found = torch.zeros(2**count, dtype=torch.int64)
    for index, pattern in enumerate(patterns_of(MODALITIES[:count])):
        found[sum(2 ** MODALITIES.index(m) for m in pattern)] = index
    return found


_PATTERN_OF_BITS = {count: _positions(count) for count in range(1, len(MODALITIES) + 1)}


def pattern_index(present: Tensor) -> Tensor:
    """(B, M) bool, something present everywhere -> (B,) positions in the network's patterns."""
    count = present.shape[1]
    return _PATTERN_OF_BITS[count][(present * _BITS[:count]).sum(dim=1)]


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
    """Of every pattern (7,), in the order of `config.patterns`; fitted after training."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        """What it was built from."""
        self.reference_batches = False
        """Whether padding counts, as in the reference's batches."""
        architecture = config.architecture
        self.normalisers = nn.ModuleDict(
            {m.value: Normaliser(config.frame_width(m)) for m in config.modalities}
        )
        """Per letter of a modality."""
        self.observations = nn.ModuleDict(
            {m.value: Observed(config.features[m].dim) for m in config.modalities}
        )
        """Per letter of a modality."""
        self.encoders = nn.ModuleDict({m.value: e for m, e in build_encoders(config).items()})
        """Per letter of a modality."""
        if architecture.invariant:
            self.invariant = MLP(
                [architecture.embedding] * (architecture.invariant_layers + 1),
                ACTIVATION[architecture.invariant_activation],
                end_active=architecture.invariant_end_active,
            )
            """S, shared by all modalities."""
        self.register_buffer("temperatures", torch.ones(len(config.patterns)))

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What it takes, in canonical order."""
        return self.config.modalities

    def encoder(self, modality: Modality) -> Encoder:
        """The encoder of a modality."""
        encoder: Encoder = self.encoders[modality.value]  # type: ignore[assignment]
        return encoder

    def normaliser(self, modality: Modality) -> Normaliser:
        """The standardisation of a modality's frames."""
        normaliser: Normaliser = self.normalisers[modality.value]  # type: ignore[assignment]
        return normaliser

    def observed(self, modality: Modality) -> Observed:
        """What training saw of a modality's raw features."""
        observed: Observed = self.observations[modality.value]  # type: ignore[assignment]
        return observed

    def knows_scale(self, modality: Modality) -> bool:
        """Whether what raw features are like was observed, or its standardisation tells."""
        normaliser = self.normaliser(modality)
        standard = (normaliser.mean == 0).all() and (normaliser.std == 1).all()
        return bool(self.observed(modality).known) or not bool(standard)

    @property
    def pools_once(self) -> bool:
        """Whether pooling has no trained weights, so that an utterance is pooled once for all."""
        return all(isinstance(self.encoder(m), StatisticsEncoder) for m in self.modalities)

    def missing_pooled(self, modality: Modality, length: int | None = None) -> Tensor:
        """Pooled encoding (1, P) that stands for a missing modality.

        length: frames of the all-zero input; default the configured one.
        """
        feature = self.config.features[modality]
        width = self.config.frame_width(modality)
        return self.encoder(modality).missing(width, length or feature.missing_length)

    def missing_embeddings(self) -> Tensor:
        """The embeddings (M, E) of missing modalities."""
        return torch.cat([self.embed(self.missing_pooled(m), m) for m in self.modalities])

    def absent_embeddings(self, batch: Batch) -> Tensor:
        """What stands for missing modalities in a batch (M, E): constants, but for the reference
        the encoding of zeros as long as the batch."""
        if not self.reference_batches:
            return self.missing_embeddings()
        lengths = {m: x.shape[1] for m, x in batch.features.items()}
        return torch.cat([self.embed(self.missing_pooled(m, n), m) for m, n in lengths.items()])

    def embeddings(self, batch: Batch) -> Tensor:
        """h (B, M, E), canonical order; absent modalities get the constant missing embedding."""
        found = [self.embed(self._pooled(batch, m), m) for m in self.modalities]
        return torch.stack(found, dim=1)

    def embed(self, pooled: Tensor, modality: Modality) -> Tensor:
        """Pooled encodings (B, P) -> (B, E)."""
        return self.encoder(modality).embed(pooled)

    def specific(self, h: Tensor) -> Tensor:
        """Of embeddings the part (..., E) that imagination is after: here all of them."""
        return h

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
        if corpus.modalities != self.modalities:
            raise CheckpointError(
                f"the checkpoint takes {', '.join(self.modalities)}, corpus {corpus.name} has "
                f"{', '.join(corpus.modalities)}; give the corpus that it was trained on"
            )
        for modality in self.modalities:
            ours, theirs = self.config.features[modality].dim, corpus.features[modality].dim
            if ours != theirs:
                raise CheckpointError(
                    f"the checkpoint takes {ours} features of {modality}, corpus {corpus.name} has "
                    f"{theirs}; give the features that it was trained on"
                )
            made, given = (f[modality].frontend for f in (self.config.features, corpus.features))
            if made is not None and given is not None and made.identity != given.identity:
                raise CheckpointError(
                    f"the checkpoint takes features of {modality} by {made.identity}, corpus "
                    f"{corpus.name} has them by {given.identity}; extract them again"
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
