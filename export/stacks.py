"""Parts of MLPs, without what only training needs."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from ifmmin.export.folds import affine, weights
from ifmmin.train.layers import MLP


class Tail(nn.Module):
    """Layers of an MLP from one position to another.

    Of an encoder: the activation comes before each layer, since its first layer ran elsewhere.
    Of a decoder: after each, since its last layer runs elsewhere.
    """

    def __init__(self, mlp: MLP, first: int, last: int | None) -> None:
        super().__init__()
        self.linears = nn.ModuleList([affine(*weights(x)) for x in mlp.linears[first:last]])
        self.activation = mlp.activation
        self.before = first > 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) -> (B, F')."""
        for linear in self.linears:
            x = linear(self.activation(x)) if self.before else self.activation(linear(x))
        return x


def mlps(modules: nn.ModuleList) -> list[MLP]:
    """The MLPs of a list."""
    return [module for module in modules if isinstance(module, MLP)]


def copy_mlp(mlp: MLP) -> MLP:
    """The MLP without its dropout."""
    made = copy.deepcopy(mlp)
    made.dropout.p = 0.0
    return made
