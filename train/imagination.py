"""Imagination modules: a chain of residual autoencoders from h to the missing embeddings.

IF-IM, Zuo et al., ICASSP 2023, section 2.3, and MMIN, Zhao et al., ACL 2021, section 3.
h = [h_a; h_t; h_v] and H' = [S(h_a); S(h_t); S(h_v)].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ifmmin.train.config import Architecture
from ifmmin.train.layers import MLP


class Imagination(nn.Module):
    """K blocks z_k = Enc_k(.), o_k = Dec_k(z_k), and the transition to the imagined embeddings.

    cascade:  o_0 = h, z_k = Enc_k(o_{k-1} + H'), o_k = Dec_k(z_k), imagined = transition(o_K).
    parallel: z_k = Enc_k(h + k H'), imagined = transition(h + K H' + Dec_K(z_K)).
    residual (MMIN, no H'): x_1 = h, x_{k+1} = x_k + o_k, imagined = transition(x_{K+1}).
    """

    def __init__(self, architecture: Architecture, form: str) -> None:
        super().__init__()
        self.form = form
        width = 3 * architecture.embedding
        sizes = (width, *architecture.block_sizes)
        self.encoders = nn.ModuleList(
            [MLP(sizes, nn.LeakyReLU) for _ in range(architecture.blocks)]
        )
        # In the parallel form only the last decoder is ever read.
        count = 1 if form == "parallel" else architecture.blocks
        self.decoders = nn.ModuleList([MLP(sizes[::-1], nn.ReLU) for _ in range(count)])
        self.transition = MLP((width, width, width), nn.ReLU)

    def forward(self, h: Tensor, invariant: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, 3E), (B, 3E) in fusion order -> latents (B, K * size), imagined (B, 3E).

        invariant: H', None in the residual form.
        """
        if invariant is None:
            latents, output = self._residual(h)
        elif self.form == "cascade":
            latents, output = self._cascade(h, invariant)
        else:
            latents, output = self._parallel(h, invariant)
        return torch.cat(latents, dim=-1), self.transition(output)

    def _cascade(self, h: Tensor, invariant: Tensor) -> tuple[list[Tensor], Tensor]:
        latents = []
        output = h
        for encoder, decoder in zip(self.encoders, self.decoders, strict=True):
            latents.append(encoder(output + invariant))
            output = decoder(latents[-1])
        return latents, output

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
