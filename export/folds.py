"""Exact algebra on Linear layers: what is constant or composed is computed once, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
