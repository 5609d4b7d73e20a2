"""Statistics encoders in the forms in which they are exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ifmmin.train.model.encoders import CREST_FLOOR, StatisticsEncoder, frame_weights

from .encoder import ExportEncoder, Front, KeepsFloat, State, inside
from .fold import affine, weights
from .sequence import RunningStatistics, statistic


class _Scale(KeepsFloat):
    """Standardises statistics of raw frames; always in float32.

    Both standardisations, of frames and of statistics, are one; it stays apart from the layer,
    since statistics of raw features may lie far from zero compared with their deviation, and
    folded weights would cancel.
    """

    offset: Tensor
    factor: Tensor
    crest_floor: Tensor

    def __init__(self, encoder: StatisticsEncoder, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.limit = encoder.config.limit
        levels = ("mean", "max", "min", "weighted_mean")
        names = encoder.config.functionals
        moves = [mean if name in levels else 0 * mean for name in names]
        # A crest has no unit: it is of standardised frames already.
        scale = torch.cat([std if name != "crest" else 0 * std + 1 for name in names])
        self.register_buffer("crest_floor", CREST_FLOOR * std)
        self.register_buffer("offset", torch.cat(moves) + scale * encoder.offset)
        self.register_buffer("factor", 1.0 / (scale * encoder.scale))

    def forward(self, statistics: Tensor) -> Tensor:
        """(B, P) -> (B, P)."""
        standard = (statistics - self.offset) * self.factor
        return standard if self.limit is None else standard.clamp(-self.limit, self.limit)


class ExportStatisticsEncoder(ExportEncoder):
    """Statistics over time and their layer. The front must not standardise."""

    states_follow_weights = False

    def __init__(
        self, encoder: StatisticsEncoder, front: Front, mean: Tensor, std: Tensor, *, half: bool
    ) -> None:
        super().__init__()
        self.front = front
        self.half_out = half
        self.names = encoder.config.functionals
        self.weight_column = encoder.weight_column
        self.pooled_size = encoder.pooled_size
        self.scale = _Scale(encoder, mean, std)
        self.output = affine(*weights(encoder.output))
        self.running = RunningStatistics(self.names, len(mean))
        self.states: tuple[State, ...] = self.running.states

    def pool(self, x: Tensor) -> Tensor:
        """(T, D) -> (1, P)."""
        frames = self.front(x).unsqueeze(0)
        return self._scaled(lambda name: self._statistic(name, frames, None))

    def pool_batch(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), (B,) -> (B, P)."""
        frames, within = self.front(x), inside(x, lengths)
        return self._scaled(lambda name: self._statistic(name, frames, within))

    def step(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(B, N, D) and what the statistics keep -> (B, P), the next ones."""
        frames = self.front(x)
        kept = self.running.update(frames, self._weights(frames), states)
        crest = self.scale.crest_floor
        pooled = self._scaled(lambda name: self.running.statistic(name, kept, crest))
        return pooled, [kept[state.name] for state in self.states]

    def embed(self, pooled: Tensor) -> Tensor:
        """(B, P) -> (B, E)."""
        return torch.tanh(self.output(pooled))

    def _scaled(self, of: Callable[[str], Tensor]) -> Tensor:
        pooled: Tensor = self.scale(torch.cat([of(name) for name in self.names], dim=1))
        return pooled.half() if self.half_out else pooled

    def _weights(self, frames: Tensor) -> Tensor | None:
        """Weights (B, T, 1) of frames (B, T, D); None where nothing is weighted."""
        if self.weight_column is None:
            return None
        return frame_weights(frames[:, :, self.weight_column : self.weight_column + 1])

    def _statistic(self, name: str, frames: Tensor, within: Tensor | None) -> Tensor:
        shares = self._weights(frames) if name.startswith("weighted") else None
        return statistic(name, frames, within, shares, self.scale.crest_floor)
