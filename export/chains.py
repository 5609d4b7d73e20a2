"""From the starts of a head to what its classifier sees, one class per way to imagine.

What only training reads is gone: the transition, the last decoder. Nothing non-linear lies between
a decoder's last Linear and the next encoder's first, so they are one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ifmmin.export.folds import affine, compose, weights
from ifmmin.export.stacks import Tail, mlps
from ifmmin.train.imagination import Imagination
from ifmmin.train.models import FusionNetwork, ImaginationNetwork


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
