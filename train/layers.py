"""Stacks of Linear layers, in the forms that the network uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

ACTIVATION: Mapping[str, type[nn.Module]] = {
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


class MLP(nn.Module):
    """Linear layers with `activation` between them, and after the last one if `end_active`.

    Dropout follows every activation.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: type[nn.Module],
        *,
        end_active: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.linears = nn.ModuleList(
            [nn.Linear(before, after) for before, after in pairwise(sizes)]
        )
        self.activation = activation()
        self.dropout = nn.Dropout(dropout)
        self.end_active = end_active

    def forward(self, x: Tensor) -> Tensor:
        """(..., sizes[0]) -> (..., sizes[-1])."""
        last = len(self.linears) - 1
        for index, linear in enumerate(self.linears):
            x = linear(x)
            if index < last or self.end_active:
                x = self.dropout(self.activation(x))
        return x


def initialise(module: nn.Module) -> None:
    """Kaiming-normal weights (fan_in, a = 0) and zero biases, LSTMs as PyTorch makes them."""
    for name, parameter in module.named_parameters():
        if ".rnn." in name or name.startswith("rnn."):
            continue
        if parameter.dim() < 2:
            nn.init.zeros_(parameter)
        else:
            fan_in = parameter[0].numel()
            with torch.no_grad():
                parameter.normal_(0.0, (2.0 / fan_in) ** 0.5)
