"""TextCNN encoders in the forms in which they are exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifmmin.train.model.encoders import TextCNN

from .encoder import ExportEncoder, Front, State, inside
from .fold import affine, fold_standardisation, weights

_LOWEST = -65504.0
"""Below any sum that matters before a ReLU; float16 holds it."""

Windows = list[Tensor]
"""Per kernel k the sums of W = T - k + 1 windows: (B, W, channels) of products, (B, channels, W, 1)
of convolutions, whose layout is left alone since a transpose would copy it."""


class ExportTextCNN(ExportEncoder):
    """Convolutions over tokens, maximum over time, one layer; T of at least the largest kernel.

    products: all kernels as one matrix product of every token, summed along shifted time; else
    convolutions over the whole feature width, which are the faster form in float32. The maximum
    comes before the ReLU: they commute, and the ReLU then sees one value a channel.
    """

    def __init__(
        self,
        encoder: TextCNN,
        front: Front,
        standard: tuple[Tensor, Tensor] | None,
        *,
        products: bool = False,
        clears_padding: bool = False,
    ) -> None:
        super().__init__()
        self.front = front
        self.clears_padding = clears_padding
        self.kernels, self.channels = encoder.kernels, encoder.channels
        self.pooled_size = encoder.pooled_size
        pairs = [
            (w.detach(), b.detach()) for w, b in zip(encoder.weights, encoder.biases, strict=True)
        ]
        if standard is not None:
            pairs = [fold_standardisation(w, b, *standard) for w, b in pairs]
        self.products = products
        if products:
            rows = torch.cat([w.transpose(0, 1).reshape(-1, w.shape[-1]) for w, _ in pairs])
            self.rows = affine(rows, None)
            self.bias = nn.Parameter(torch.cat([b for _, b in pairs]))
        else:
            self.convolutions = nn.ModuleList([_convolution(w, b) for w, b in pairs])
        self.output = affine(*weights(encoder.output))
        dim, tail = pairs[0][0].shape[-1], max(self.kernels) - 1
        self.states = (
            State("tail", 0.0, (tail, dim), initial_size=(0, dim)),
            State("maximum", 0.0, (self.pooled_size,), pools=True),
        )

    def pool(self, x: Tensor) -> Tensor:
        """Raw (T, D) -> (1, P)."""
        return self._finish(self._windows(self.front(x).unsqueeze(0)))

    def pool_batch(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Raw (B, T, D), (B,) -> (B, P)."""
        frames, kept = self.front(x), []
        if self.clears_padding:
            frames = frames.masked_fill(~inside(x, lengths), 0.0)
        for kernel, windows in zip(self.kernels, self._windows(frames), strict=True):
            within = inside(frames[:, kernel - 1 :], lengths - (kernel - 1))
            mask = within if self.products else within.unsqueeze(1)
            kept.append(windows.masked_fill(~mask, _LOWEST))
        return self._finish(kept)

    def step(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Raw (B, N, D), the last frames (B, S, D), the maximum so far (B, P).

        S + N must be at least the largest kernel. Windows of the tail alone are seen again, which a
        maximum forgives.
        """
        tail, maximum = states
        frames = torch.cat([tail, self.front(x)], dim=1)
        new = self._finish(self._windows(frames))
        pooled = torch.maximum(maximum, new)
        return pooled, [frames[:, -(max(self.kernels) - 1) :], pooled]

    def embed(self, pooled: Tensor) -> Tensor:
        """(B, P) -> (B, E)."""
        return F.relu(self.output(pooled))

    def _windows(self, x: Tensor) -> Windows:
        """Frames (B, T, D) -> sums of windows, without the bias in the form of products."""
        if not self.products:
            image = x.unsqueeze(1)
            return [convolution(image) for convolution in self.convolutions]
        blocks, sums = iter(self.rows(x).split(self.channels, dim=2)), []
        for kernel in self.kernels:
            total = None
            for offset in range(kernel):
                end = offset - kernel + 1
                block = next(blocks)[:, offset : end or None]
                total = block if total is None else total + block
            assert total is not None
            sums.append(total)
        return sums

    def _finish(self, windows: Windows) -> Tensor:
        """Maximum over the windows, then the ReLU: (B, P)."""
        if self.products:
            return F.relu(torch.cat([w.amax(dim=1) for w in windows], dim=1) + self.bias)
        return F.relu(torch.cat([w.amax(dim=2).flatten(1) for w in windows], dim=1))


def _convolution(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    channels, kernel, dim = weight.shape
    made = nn.Conv2d(1, channels, (kernel, dim), dtype=weight.dtype)
    assert made.bias is not None
    with torch.no_grad():
        made.weight.copy_(weight[:, None])
        made.bias.copy_(bias)
    return made
