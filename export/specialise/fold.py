"""Folding of Linear layers: what is constant or composed is computed once, in float64.

The embeddings of absent modalities and the temperature are constants of a pattern.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ifmmin.runtime.modality import Pattern
from ifmmin.train.model.models import FusionNetwork, ImaginationNetwork
from ifmmin.train.model.network import MLP, EmotionNetwork, Imagination, fusion_order


def affine(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear with this weight (out, in) and bias (out,)."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear


def weights(linear: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a Linear, detached."""
    assert isinstance(linear, nn.Linear)
    return linear.weight.detach(), linear.bias.detach()


def columns(matrix: Tensor, blocks: Sequence[int], width: int) -> Tensor:
    """The column blocks of `matrix` (out, n * width) that `blocks` names, in its order."""
    parts = [matrix[:, block * width : (block + 1) * width] for block in blocks]
    return torch.cat(parts, dim=1) if parts else matrix[:, :0]


def compose(outer: nn.Module, inner: nn.Module) -> nn.Linear:
    """outer(inner(x)) as one Linear; nothing non-linear may lie between."""
    outer_weight, outer_bias = weights(outer)
    inner_weight, inner_bias = weights(inner)
    return affine(outer_weight @ inner_weight, outer_weight @ inner_bias + outer_bias)


def fold_standardisation(
    weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor
) -> tuple[Tensor, Tensor]:
    """Weight (..., D) and bias for raw x, where weight and bias wanted (x - mean) / std.

    The leading axes of `weight` after the first are summed over (kernel heights).
    """
    raw = weight / std
    shift = (raw * mean).flatten(1).sum(dim=1)
    return raw, bias - shift


class Tail(nn.Module):
    """Layers of an MLP from one position to another.

    Of an encoder: the activation comes before each layer, since its first layer ran elsewhere.
    Of a decoder: after each, since its last layer runs elsewhere.
    """

    def __init__(self, mlp: MLP, first: int, last: int | None) -> None:
        super().__init__()
        self.linears = nn.ModuleList([affine(*weights(x)) for x in mlp.linears[first:last]])
        self.activation = mlp.activation
        self.before = first > 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) -> (B, F')."""
        for linear in self.linears:
            x = linear(self.activation(x)) if self.before else self.activation(linear(x))
        return x


def mlps(modules: nn.ModuleList) -> list[MLP]:
    """The MLPs of a list."""
    return [module for module in modules if isinstance(module, MLP)]


def copy_mlp(mlp: MLP) -> MLP:
    """The MLP without its dropout."""
    made = copy.deepcopy(mlp)
    made.dropout.p = 0.0
    return made


class Constants:
    """Which fusion slots are present, what stands in the others, and the pattern's temperature."""

    def __init__(self, network: EmotionNetwork, pattern: Pattern) -> None:
        order = fusion_order(network.modalities)
        self.present = [i for i, m in enumerate(order) if m in pattern]
        self.absent = [i for i, m in enumerate(order) if m not in pattern]
        self.temperature = network.temperatures[network.config.patterns.index(pattern)]
        rows = [network.modalities.index(order[i]) for i in self.absent]
        with torch.no_grad():
            missing = network.missing_embeddings()
            self.width = missing.shape[1]
            self.h = missing[rows].flatten()
            if network.config.architecture.invariant:
                self.invariant = network.invariant(missing)[rows].flatten()
            else:
                self.invariant = torch.zeros_like(self.h)

    def keep(self, matrix: Tensor) -> Tensor:
        """The columns of a matrix over h or H' that belong to present modalities."""
        return columns(matrix, self.present, self.width)

    def shift(self, matrix: Tensor, constant: Tensor) -> Tensor:
        """What the columns of absent modalities add to the bias."""
        return columns(matrix, self.absent, self.width) @ constant

    def apply_temperature(self, mlp: MLP) -> None:
        """Divide what a classifier says by the temperature, in its last layer."""
        weight, bias = weights(mlp.linears[-1])
        mlp.linears[-1] = affine(weight / self.temperature, bias / self.temperature)


@dataclass(frozen=True)
class EntryWeights:
    """A, B and bias of a whole network. A may have rows for the first block or blocks only."""

    of_h: Tensor
    """A, (N', ME) with N' at most N."""
    of_invariant: Tensor | None
    """B, (N, ME); None without an invariant encoder."""
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


class FusionChain(nn.Module):
    """Nothing is imagined: the starts are the classifier's first layer."""

    def forward(self, starts: Sequence[Tensor]) -> Tensor:
        """One block (B, n) -> (B, n)."""
        return starts[0]


class ParallelChain(nn.Module):
    """Blocks that do not see one another: every decoder is dead."""

    def __init__(self, imagination: Imagination) -> None:
        super().__init__()
        encoders = mlps(imagination.encoders)
        self.encoders = nn.ModuleList([Tail(encoder, 1, None) for encoder in encoders])

    def forward(self, starts: Sequence[Tensor]) -> Tensor:
        """K blocks (B, n) -> latents (B, K * size)."""
        return torch.cat([e(x) for e, x in zip(self.encoders, starts, strict=True)], dim=1)


class CascadeChain(nn.Module):
    """Each block takes what the one before it decoded."""

    def __init__(self, imagination: Imagination) -> None:
        super().__init__()
        encoders, decoders = mlps(imagination.encoders), mlps(imagination.decoders)
        self.encoders = nn.ModuleList([Tail(encoder, 1, None) for encoder in encoders])
        self.decoders = nn.ModuleList([Tail(decoder, 0, -1) for decoder in decoders[:-1]])
        self.links = nn.ModuleList(
            compose(encoder.linears[0], decoder.linears[-1])
            for encoder, decoder in zip(encoders[1:], decoders, strict=False)
        )

    def forward(self, starts: Sequence[Tensor]) -> Tensor:
        """K blocks (B, n) -> latents (B, K * size)."""
        latents: list[Tensor] = [self.encoders[0](starts[0])]
        for index, encoder in enumerate(self.encoders[1:]):
            linked = self.links[index](self.decoders[index](latents[-1]))
            latents.append(encoder(linked + starts[index + 1]))
        return torch.cat(latents, dim=1)


class ResidualChain(nn.Module):
    """MMIN: every block sees h and what all blocks before it decoded, W_k (h + sum_{j<k} o_j).

    Each decoder's last Linear is composed with the first of all encoders after it.
    """

    def __init__(self, imagination: Imagination) -> None:
        super().__init__()
        encoders = mlps(imagination.encoders)
        decoders = mlps(imagination.decoders)[:-1]
        firsts = [weights(encoder.linears[0])[0] for encoder in encoders]
        self.size = len(firsts[0])
        self.encoders = nn.ModuleList([Tail(encoder, 1, None) for encoder in encoders])
        self.decoders = nn.ModuleList([Tail(decoder, 0, -1) for decoder in decoders])
        self.spreads = nn.ModuleList()
        for j, decoder in enumerate(decoders):
            after = torch.cat(firsts[j + 1 :])
            zero = after.new_zeros(len(after))
            self.spreads.append(compose(affine(after, zero), decoder.linears[-1]))

    def forward(self, starts: Sequence[Tensor]) -> Tensor:
        """K blocks (B, n) -> latents (B, K * size)."""
        starts, latents = list(starts), []
        for j, encoder in enumerate(self.encoders):
            latents.append(encoder(starts[j]))
            if j < len(self.decoders):
                spread = self.spreads[j](self.decoders[j](latents[-1])).split(self.size, dim=1)
                starts[j + 1 :] = [x + y for x, y in zip(starts[j + 1 :], spread, strict=True)]
        return torch.cat(latents, dim=1)


def build_chain(network: FusionNetwork | ImaginationNetwork) -> nn.Module:
    """The chain of a network."""
    if isinstance(network, FusionNetwork):
        return FusionChain()
    chains = {"cascade": CascadeChain, "parallel": ParallelChain, "residual": ResidualChain}
    return chains[network.imagination.form](network.imagination)
