"""The recurrence of an LSTM as a loop of its own, with what is pooled as part of its state.

TensorRT turns the LSTM operator into a loop that multiplies the input once per step. Here the
products of all inputs are made before the loop, and no sequence of outputs is ever stored. The
exporter cannot draw an ONNX Scan, so tracing leaves one node `ifmmin::PooledLstm`, which
`export.scan` expands.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DOMAIN, OPERATOR = "ifmmin", "PooledLstm"
RUNNING_POOLINGS = ("maximum", "last", "sum")
"""Poolings that one state can hold; others read the whole sequence of outputs."""


class PooledLstm(torch.autograd.Function):
    """Products (B, T, 4H) in order i, f, g, o -> pooled (B, H), or outputs (B, T, H).

    recurrent: (H, 4H). start: (B, H), of hidden and cell state. floor: (B, H), what pooling starts
    from. inside: (B, T, 1) bool, or an empty tensor where every frame counts.
    """

    @staticmethod
    def forward(
        ctx: Any,
        products: Tensor,
        recurrent: Tensor,
        start: Tensor,
        floor: Tensor,
        inside: Tensor,
        pooling: str,
    ) -> Tensor:
        """Step by step in torch, which is also the meaning of the node."""
        hidden, cell, pooled, outputs = start, start, floor, []
        for index in range(products.shape[1]):
            product, here = products[:, index], inside[:, index] if inside.numel() else None
            i, f, g, o = (product + hidden @ recurrent).chunk(4, dim=1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            new = o.sigmoid() * cell.tanh()
            # After an end the state stands still, so its maximum and its last value do as well.
            hidden = new if here is None else torch.where(here, new, hidden)
            pooled = _pool(pooling, pooled, hidden, here)
            outputs.append(hidden)
        if pooling in RUNNING_POOLINGS:
            return hidden.clone() if pooling == "last" else pooled
        return torch.stack(outputs, dim=1)

    @staticmethod
    def symbolic(g: Any, *arguments: Any) -> Any:
        """One node with all tensors as inputs."""
        *tensors, pooling = arguments
        node = g.op(f"{DOMAIN}::{OPERATOR}", *tensors, pooling_s=pooling)
        running = pooling in RUNNING_POOLINGS
        node.setType(tensors[2].type() if running else tensors[0].type().with_sizes([None] * 3))
        return node


def _pool(pooling: str, pooled: Tensor, hidden: Tensor, inside: Tensor | None) -> Tensor:
    if pooling == "sum":
        return pooled + (hidden if inside is None else torch.where(inside, hidden, 0 * hidden))
    return torch.maximum(pooled, hidden)
