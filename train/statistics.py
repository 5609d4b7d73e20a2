"""An encoder without recurrence: statistics over time, one layer.

The pooled statistics do not depend on any trained weight, so they are computed once a corpus.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ifmmin.train.config import StatisticsConfig
from ifmmin.train.corpus import Statistics
from ifmmin.train.frames import Normaliser

CREST_FLOOR = 0.1
"""Of the frames' deviation: keeps the crest of a still feature finite."""
WEIGHT_FLOOR = 1e-3
"""Keeps the weights of an utterance without any weight equal instead of undefined."""
_LEAST_DEVIATION = 1e-2


def frame_weights(raw: Tensor) -> Tensor:
    """Weights of frames from the raw values of the column that weighs them."""
    return raw.clamp_min(0.0) + WEIGHT_FLOOR


def time_mask(lengths: Tensor, frames: int) -> Tensor:
    """True where a frame belongs to its utterance: (B,) lengths -> (B, frames)."""
    return torch.arange(frames, device=lengths.device)[None, :] < lengths[:, None]


def functional(name: str, x: Tensor, lengths: Tensor, weights: Tensor | None = None) -> Tensor:
    """One statistic over time: (B, T, D), (B,) of at least 1 -> (B, D). `std` divides by T.

    weights: (B, T) above 0, for the weighted ones.
    """
    outside = ~time_mask(lengths, x.shape[1])[..., None]
    count = lengths[:, None].to(x.dtype)
    if name == "max":
        return x.masked_fill(outside, -torch.inf).amax(dim=1)
    if name == "min":
        return x.masked_fill(outside, torch.inf).amin(dim=1)
    if name == "delta":
        steps = (x[:, 1:] - x[:, :-1]).abs().masked_fill(outside[:, 1:], 0.0)
        return steps.sum(dim=1) / count
    if weights is not None and name.startswith("weighted"):
        return _weighted(name, x, weights[..., None].masked_fill(outside, 0.0))
    mean = x.masked_fill(outside, 0.0).sum(dim=1) / count
    if name == "mean":
        return mean
    squares = (x - mean[:, None]).pow(2).masked_fill(outside, 0.0).sum(dim=1)
    std = (squares / count).sqrt()
    if name == "std":
        return std
    peak = x.masked_fill(outside, -torch.inf).amax(dim=1)
    return (peak - mean) / (std + CREST_FLOOR)


def _weighted(name: str, x: Tensor, weights: Tensor) -> Tensor:
    """Mean or deviation of (B, T, D) under weights (B, T, 1), zero outside of an utterance."""
    shares = weights / weights.sum(dim=1, keepdim=True)
    mean = (shares * x.masked_fill(shares == 0, 0.0)).sum(dim=1)
    if name == "weighted_mean":
        return mean
    squares = (x - mean[:, None]).masked_fill(shares == 0, 0.0).square()
    return (shares * squares).sum(dim=1).sqrt()


class StatisticsEncoder(nn.Module):
    """Standardised statistics s of frames (B, T, D), then h = tanh(W dropout(s) + b): (B, E).

    embedding: E, or None for an encoder that is asked for s alone. `offset` and `scale` (P,) are
    mean and deviation of the statistics over the training part. A missing modality is s = 0, the
    average utterance: the statistics of zeros would lie far from those of any signal.
    """

    offset: Tensor
    scale: Tensor
    weight_scale: Tensor

    def __init__(self, dim: int, embedding: int | None, config: StatisticsConfig) -> None:
        super().__init__()
        self.config = config
        self.pooled_size = dim * len(config.functionals)
        self.register_buffer("offset", torch.zeros(self.pooled_size))
        self.register_buffer("scale", torch.ones(self.pooled_size))
        # Of the raw column that weighs frames: mean and deviation with which it was standardised.
        self.register_buffer("weight_scale", torch.tensor([0.0, 1.0]))
        self.dropout = nn.Dropout(config.dropout)
        self.output: nn.Module = nn.Identity()
        if embedding is not None:
            self.output = nn.Linear(self.pooled_size, embedding)

    def take(self, statistics: Statistics) -> None:
        """Standardise by these from now on.

        A deviation below 1% of the frames' own is raised to that: dividing by it would make an
        outlier, and the rounding of float32, outweigh everything else.
        """
        self.offset.copy_(torch.from_numpy(statistics.mean))
        self.scale.copy_(torch.from_numpy(np.maximum(statistics.std, _LEAST_DEVIATION)))

    def weigh_as(self, normaliser: Normaliser) -> None:
        """Find the raw values of the weighing column in frames standardised like this."""
        column = self.config.weight_column
        if column is not None:
            self.weight_scale.copy_(torch.stack([normaliser.mean[column], normaliser.std[column]]))

    def pool(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), (B,) of at least 1 -> (B, P), standardised."""
        standard = (self.statistics(x, lengths) - self.offset) / self.scale
        limit = self.config.limit
        return standard if limit is None else standard.clamp(-limit, limit)

    def statistics(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), (B,) -> (B, P), as they are."""
        weights = self._weights(x)
        names = self.config.functionals
        return torch.cat([functional(name, x, lengths, weights) for name in names], dim=1)

    def _weights(self, x: Tensor) -> Tensor | None:
        column = self.config.weight_column
        if column is None:
            return None
        mean, std = self.weight_scale
        return frame_weights(x[..., column] * std + mean)

    def embed(self, pooled: Tensor) -> Tensor:
        """(B, P) -> (B, E)."""
        return torch.tanh(self.output(self.dropout(pooled)))

    def missing(self, dim: int, length: int) -> Tensor:
        """Pooled encoding (1, P) of a missing modality."""
        return torch.zeros_like(self.offset)[None]
