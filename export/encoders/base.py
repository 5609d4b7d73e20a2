"""What every exported encoder can do: pool one utterance, a padded batch, or new frames.

Shapes: T frames, B utterances or streams, N new frames, D features per frame, P pooled values,
E embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class State:
    """A value that lives from one call of a step graph to the next."""

    name: str
    initial: float
    """What fills it before the first call."""
    size: tuple[int, ...]
    """Shape of one stream's value after a call."""
    initial_size: tuple[int, ...] | None = None
    """Shape before the first call, where it differs."""
    pools: bool = False
    """Whether it is also what was pooled so far, so that the graph gives it only once."""


class ExportEncoder(nn.Module, ABC):
    """An encoder in the forms in which it is exported."""

    pooled_size: int
    states: tuple[State, ...]
    states_follow_weights = True
    """Whether states are of the weights' type, else always of float32."""

    @abstractmethod
    def pool(self, x: Tensor) -> Tensor:
        """One utterance: raw (T, D) -> (1, P)."""

    @abstractmethod
    def pool_batch(self, x: Tensor, lengths: Tensor) -> Tensor:
        """A padded batch: raw (B, T, D), (B,) -> (B, P); what is past an end never counts."""

    @abstractmethod
    def step(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """New frames of streams: raw (B, N, D) and states -> pooled so far (B, P), next states."""

    @abstractmethod
    def embed(self, pooled: Tensor) -> Tensor:
        """(B, P) -> (B, E)."""


def inside(x: Tensor, lengths: Tensor) -> Tensor:
    """True where a frame belongs to its utterance: (B, T, D), (B,) -> (B, T, 1)."""
    frames = torch.arange(x.shape[1], device=x.device)
    return (frames[None, :] < lengths[:, None]).unsqueeze(2)
