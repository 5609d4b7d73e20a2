"""The first linear layers that embeddings meet, of every model, in one form.

    starts = A h + B H' + bias,   h = [h_a; h_t; h_v], H' = [S(h_a); S(h_t); S(h_v)]

Every model begins like this, so what absent modalities add is a constant, and what each present one
adds can be computed alone. `starts` is one block of values per autoencoder of the imagination.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ifmmin.export.constants import Constants
from ifmmin.export.folds import affine, weights
from ifmmin.export.stacks import mlps
from ifmmin.train.models import FusionNetwork, ImaginationNetwork
from ifmmin.train.network import EmotionNetwork


@dataclass(frozen=True)
class EntryWeights:
    """A, B and bias of a whole network. A may have rows for the first block or blocks only."""

    of_h: Tensor
    """A, (N', 3E) with N' at most N."""
    of_invariant: Tensor | None
    """B, (N, 3E); None without an invariant encoder."""
    bias: Tensor
    """(N,)"""
    blocks: int

    def columns(self, slot: int, width: int) -> EntryWeights:
        """Those of the modality in a fusion slot, without bias."""
        pick = slice(slot * width, (slot + 1) * width)
        invariant = None if self.of_invariant is None else self.of_invariant[:, pick]
        return EntryWeights(self.of_h[:, pick], invariant, 0 * self.bias, self.blocks)


def entry_weights(network: EmotionNetwork) -> EntryWeights:
    """Those of a network."""
    if isinstance(network, FusionNetwork):
        weight, bias = weights(network.classifier.linears[0])
        if not network.config.architecture.invariant:
            return EntryWeights(weight, None, bias, 1)
        of_h, of_invariant = weight.chunk(2, dim=1)
        return EntryWeights(of_h, of_invariant, bias, 1)
    assert isinstance(network, ImaginationNetwork)
    pairs = [weights(encoder.linears[0]) for encoder in mlps(network.imagination.encoders)]
    every = torch.cat([weight for weight, _ in pairs])
    bias = torch.cat([bias for _, bias in pairs])
    count = len(pairs)
    if network.imagination.form == "residual":
        return EntryWeights(every, None, bias, count)
    if network.imagination.form == "parallel":  # z_k = Enc_k(h + k H')
        scaled = torch.cat([k * weight for k, (weight, _) in enumerate(pairs, start=1)])
        return EntryWeights(every, scaled, bias, count)
    # The cascade: h + H' meets the first encoder, H' meets all. The biases of the others belong to
    # the layers that they are composed with.
    first = pairs[0][0]
    later = torch.zeros_like(bias)
    later[: len(first)] = pairs[0][1]
    return EntryWeights(first, every, later, count)


def constant_starts(entry: EntryWeights, constants: Constants) -> Tensor:
    """The bias (N,) with what absent modalities add."""
    bias = entry.bias.clone()
    added = constants.shift(entry.of_h, constants.h)
    bias[: len(added)] += added
    if entry.of_invariant is not None:
        bias += constants.shift(entry.of_invariant, constants.invariant)
    return bias


class Entry(nn.Module):
    """The entry of some modalities: h (B, pE), H' (B, pE) or None -> starts, a list of (B, n).

    As few products as the weights allow: where A has a row for every row of B they are one.
    """

    def __init__(self, of_h: Tensor, of_invariant: Tensor | None, bias: Tensor, blocks: int):
        super().__init__()
        self.size = len(bias) // blocks
        self.joins = of_invariant is None or len(of_invariant) == len(of_h)
        if self.joins:
            parts = [of_h] if of_invariant is None else [of_h, of_invariant]
            self.joined = affine(torch.cat(parts, dim=1), bias)
        else:
            assert of_invariant is not None
            rows = len(of_h)
            self.of_h = affine(of_h, bias[:rows])
            rest = bias[rows:]
            # Where nothing is added to the other blocks the product needs no bias.
            plain = bool((rest == 0).all())
            self.of_invariant = affine(
                of_invariant, None if plain else torch.cat([0 * bias[:rows], rest])
            )

    def forward(self, h: Tensor, invariant: Tensor | None) -> list[Tensor]:
        """(B, pE), (B, pE) -> blocks of (B, n)."""
        if self.joins:
            x = h if invariant is None else torch.cat([h, invariant], dim=1)
            return self._split(self.joined(x))
        starts = self._split(self.of_invariant(invariant))
        added = self.of_h(h)
        return [starts[0] + added, *starts[1:]]

    def _split(self, starts: Tensor) -> list[Tensor]:
        return blocks_of(starts, self.size)


def blocks_of(starts: Tensor, size: int) -> list[Tensor]:
    """Starts (B, N) cut into blocks of (B, size); one block is itself."""
    if starts.shape[1] == size:
        return [starts]
    return list(torch.split(starts, size, dim=1))


def pattern_entry(entry: EntryWeights, constants: Constants) -> Entry:
    """The entry of a pattern: present columns, everything absent in the bias."""
    invariant = entry.of_invariant
    kept = None if invariant is None else constants.keep(invariant)
    bias = constant_starts(entry, constants)
    return Entry(constants.keep(entry.of_h), kept, bias, entry.blocks)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Along the features; one tensor is itself."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim=1)
