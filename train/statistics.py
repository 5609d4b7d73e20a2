"""An encoder without recurrence: statistics over time, one layer.

The pooled statistics do not depend on any trained weight, so they are computed once a corpus.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ifmmin.train.config import StatisticsConfig
from ifmmin.train.corpus import Statistics

_LEAST_DEVIATION = 1e-2


def time_mask(lengths: Tensor, frames: int) -> Tensor:
    """True where a frame belongs to its utterance: (B,) lengths -> (B, frames)."""
    return torch.arange(frames, device=lengths.device)[None, :] < lengths[:, None]


def functional(name: str, x: Tensor, lengths: Tensor) -> Tensor:
    """One statistic over time: (B, T, D), (B,) of at least 1 -> (B, D). `std` divides by T."""
    outside = ~time_mask(lengths, x.shape[1])[..., None]
    count = lengths[:, None].to(x.dtype)
    if name == "max":
        return x.masked_fill(outside, -torch.inf).amax(dim=1)
    if name == "min":
        return x.masked_fill(outside, torch.inf).amin(dim=1)
    if name == "delta":
        steps = (x[:, 1:] - x[:, :-1]).abs().masked_fill(outside[:, 1:], 0.0)
        return steps.sum(dim=1) / count
    mean = x.masked_fill(outside, 0.0).sum(dim=1) / count
    if name == "mean":
        return mean
    squares = (x - mean[:, None]).pow(2).masked_fill(outside, 0.0).sum(dim=1)
    return (squares / count).sqrt()


class StatisticsEncoder(nn.Module):
    """Standardised statistics s of frames (B, T, D), then h = tanh(W dropout(s) + b): (B, E).

    embedding: E, or None for an encoder whose embedding is s itself. `offset` and `scale` (P,) are
    mean and deviation of the statistics over the training part. A missing modality is s = 0, the
    average utterance: the statistics of zeros would lie far from those of any signal.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, dim: int, embedding: int | None, config: StatisticsConfig) -> None:
        super().__init__()
        self.config = config
        self.pooled_size = dim * len(config.functionals)
        self.register_buffer("offset", torch.zeros(self.pooled_size))
        self.register_buffer("scale", torch.ones(self.pooled_size))
        self.dropout = nn.Dropout(config.dropout)
        self.output = None if embedding is None else nn.Linear(self.pooled_size, embedding)

    def take(self, statistics: Statistics) -> None:
        """Standardise by these from now on.

        A deviation below 1% of the frames' own is raised to that: dividing by it would make an
        outlier, and the rounding of float32, outweigh everything else.
        """
        self.offset.copy_(torch.from_numpy(statistics.mean))
        self.scale.copy_(torch.from_numpy(np.maximum(statistics.std, _LEAST_DEVIATION)))

    def pool(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), (B,) of at least 1 -> (B, P), standardised."""
        standard = (self.statistics(x, lengths) - self.offset) / self.scale
        limit = self.config.limit
        return standard if limit is None else standard.clamp(-limit, limit)

    def statistics(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), (B,) -> (B, P), as they are."""
        return torch.cat([functional(n, x, lengths) for n in self.config.functionals], dim=1)

    def embed(self, pooled: Tensor) -> Tensor:
        """(B, P) -> (B, E)."""
        dropped: Tensor = self.dropout(pooled)
        return dropped if self.output is None else torch.tanh(self.output(dropped))

    def missing(self, dim: int, length: int) -> Tensor:
        """Pooled encoding (1, P) of a missing modality."""
        return torch.zeros_like(self.offset)[None]
