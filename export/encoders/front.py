"""What happens to raw frames before an exported encoder sees them."""

from __future__ import annotations

import torch
from torch import Tensor

from ifmmin.export.precision import KeepsFloat
from ifmmin.train.config import TransformConfig

_SMALLEST_LENGTH = 1e-12


class Front(KeepsFloat):
    """Transform, then standardisation where it is not folded, then the cast to float16."""

    mean: Tensor
    factor: Tensor

    def __init__(
        self,
        config: TransformConfig | None,
        *,
        half: bool,
        standard: tuple[Tensor, Tensor] | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.half_out = half
        changes = standard is not None and bool(
            (standard[0] != 0).any() or (standard[1] != 1).any()
        )
        self.standardises = changes
        if standard is not None and changes:
            self.register_buffer("mean", standard[0].clone())
            self.register_buffer("factor", 1.0 / standard[1])

    def forward(self, x: Tensor) -> Tensor:
        """Raw (..., D) -> (..., D * powers)."""
        x = self._transformed(x)
        if self.standardises:
            x = (x - self.mean) * self.factor
        return x.half() if self.half_out else x

    def _transformed(self, x: Tensor) -> Tensor:
        if self.config is None:
            return x
        if self.config.unit:
            # torch's own norm exports with the shapes that it computes on the way.
            length = torch.sqrt((x * x).sum(dim=-1, keepdim=True))
            x = x / length.clamp_min(_SMALLEST_LENGTH)
        powers = self.config.powers
        raised = [x if p == 1.0 else torch.sign(x) * torch.abs(x).pow(p) for p in powers]
        return raised[0] if len(raised) == 1 else torch.cat(raised, dim=-1)
