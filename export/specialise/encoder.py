"""Base of exported encoders: pool one utterance, a padded batch, or new frames.

Also the transform of raw frames before them, and what a precision asks of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ifmmin.train.config import TransformConfig


@dataclass(frozen=True)
class Precision:
    """How a graph computes; `name` is one of runtime.manifest.PRECISIONS."""

    name: str
    half: bool = False
    """Weights and activations in float16. Raw frames, pooled statistics and the logits stay in
    float32: a raw feature may lie beyond 65504, and sums over time want the bits."""
    folded: bool = False
    """Standardisation is part of the first layer. Where the first layer has few bits, features of
    different size must not share its scale, so there it stays a step of its own, in float32."""
    text_products: bool = False
    """Text convolutions as one matrix product of all tokens, summed along shifted time: ONNX
    Runtime multiplies integer matrices fast and convolves integers slowly."""
    apart: bool = False
    """Modalities meet as late as they can: embeddings side by side would share one scale, which the
    largest of them would set."""
    clears_padding: bool = False
    """Frames past an end are set to the mean first: ranges found while running see them too."""
    recurrence: str = "lstm"
    """The form of recurrence exported unless the caller says otherwise."""


FP32 = Precision("fp32", folded=True)
PRECISIONS: dict[str, Precision] = {
    "fp32": FP32,
    "fp16": Precision("fp16", half=True, recurrence="scan"),
    "int8": Precision("int8", text_products=True, apart=True, clears_padding=True),
    "int8-qdq": Precision("int8-qdq", apart=True, recurrence="scan"),
}


class KeepsFloat(nn.Module):
    """A module whose buffers stay in float32 when the network around it is halved."""


def halve(module: nn.Module) -> nn.Module:
    """Cast everything outside of KeepsFloat modules to float16, in place."""
    for child in module.children():
        if not isinstance(child, KeepsFloat):
            halve(child)
    for name, parameter in module.named_parameters(recurse=False):
        setattr(module, name, nn.Parameter(parameter.detach().half(), requires_grad=False))
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.dtype == torch.float32:
            module.register_buffer(name, buffer.half())
    return module


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


_SMALLEST_LENGTH = 1e-12


class Front(KeepsFloat):
    """Transform, then standardisation where it is not folded, then the cast to float16."""

    mean: Tensor
    factor: Tensor

    def __init__(
        self, config: TransformConfig | None, *, half: bool, standard: tuple[Tensor, Tensor] | None
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
