"""Statistics over time, of whole utterances and as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ifmmin.export.encoders.base import State

_LOWEST, _HIGHEST = -3e38, 3e38


def statistic(
    name: str,
    x: Tensor,
    within: Tensor | None,
    weights: Tensor | None,
    crest_floor: Tensor,
) -> Tensor:
    """One statistic over time: (B, T, D) -> (B, D).

    within: (B, T, 1) bool, None where every frame counts. weights: (B, T, 1), for weighted ones.
    """
    if name == "max":
        return torch.amax(_fill(x, within, _LOWEST), dim=1)
    if name == "min":
        return torch.amin(_fill(x, within, _HIGHEST), dim=1)
    if name == "delta":
        before = torch.cat([x[:, :1], x[:, :-1]], dim=1)
        return _mean((x - before).abs(), within)
    if weights is not None:
        return _weighted(name, _fill(x, within, 0.0), _fill(weights, within, 0.0))
    mean = _mean(x, within)
    if name == "mean":
        return mean
    std = _mean((x - mean.unsqueeze(1)).square(), within).sqrt()
    if name == "std":
        return std
    return (torch.amax(_fill(x, within, _LOWEST), dim=1) - mean) / (std + crest_floor)


def _fill(x: Tensor, within: Tensor | None, value: float) -> Tensor:
    return x if within is None else x.masked_fill(~within, value)


def _mean(x: Tensor, within: Tensor | None) -> Tensor:
    if within is None:
        return x.mean(dim=1)
    return _fill(x, within, 0.0).sum(dim=1) / within.to(x.dtype).sum(dim=1)


def _weighted(name: str, x: Tensor, weights: Tensor) -> Tensor:
    shares = weights / weights.sum(dim=1, keepdim=True)
    mean = (shares * x).sum(dim=1)
    if name == "weighted_mean":
        return mean
    return (shares * (x - mean.unsqueeze(1)).square()).sum(dim=1).sqrt()


class RunningStatistics:
    """The same statistics of streams: what has to be kept, and how new frames change it.

    Means and sums of squares are merged as Chan, Golub and LeVeque (1979) do it, which does not
    lose digits however long a stream gets.
    """

    def __init__(self, names: Sequence[str], dim: int) -> None:
        self.names = names
        asked = set(names)
        kept: list[State] = []
        averages = bool(asked & {"mean", "std", "crest"})
        if averages or "delta" in asked:
            kept.append(State("count", 0.0, (1,)))
        if averages:
            kept += [State("mean", 0.0, (dim,)), State("squares", 0.0, (dim,))]
        if asked & {"max", "crest"}:
            kept.append(State("max", _LOWEST, (dim,)))
        if "min" in asked:
            kept.append(State("min", _HIGHEST, (dim,)))
        if "delta" in asked:
            kept += [State("last", 0.0, (dim,)), State("moved", 0.0, (dim,))]
        if asked & {"weighted_mean", "weighted_std"}:
            kept.append(State("weight", 0.0, (1,)))
            kept.append(State("weighted_mean", 0.0, (dim,)))
            kept.append(State("weighted_squares", 0.0, (dim,)))
        self.states = tuple(kept)

    def update(
        self, x: Tensor, weights: Tensor | None, states: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """New frames (B, N, D) with weights (B, N, 1) -> what is kept from now on, by name."""
        old = {state.name: value for state, value in zip(self.states, states, strict=True)}
        new: dict[str, Tensor] = {}
        ones = torch.ones_like(x[:, :, :1])
        if "count" in old:
            new["count"] = old["count"] + ones.sum(dim=1)
        if "mean" in old:
            _, new["mean"], new["squares"] = _merge(
                x, ones, old["count"], old["mean"], old["squares"]
            )
        if "max" in old:
            new["max"] = torch.maximum(old["max"], torch.amax(x, dim=1))
        if "min" in old:
            new["min"] = torch.minimum(old["min"], torch.amin(x, dim=1))
        if "moved" in old:
            first = torch.where(old["count"] > 0, old["last"], x[:, 0])
            before = torch.cat([first.unsqueeze(1), x[:, :-1]], dim=1)
            new["moved"] = old["moved"] + (x - before).abs().sum(dim=1)
            new["last"] = x[:, -1]
        if weights is not None and "weight" in old:
            new["weight"], new["weighted_mean"], new["weighted_squares"] = _merge(
                x, weights, old["weight"], old["weighted_mean"], old["weighted_squares"]
            )
        return new

    def statistic(self, name: str, kept: Mapping[str, Tensor], crest_floor: Tensor) -> Tensor:
        """One statistic (B, D) of what is kept."""
        if name == "delta":
            return kept["moved"] / kept["count"]
        if name == "weighted_std":
            return (kept["weighted_squares"] / kept["weight"]).sqrt()
        if name in kept:
            return kept[name]
        std = (kept["squares"] / kept["count"]).sqrt()
        return std if name == "std" else (kept["max"] - kept["mean"]) / (std + crest_floor)


def _merge(
    x: Tensor, weights: Tensor, total: Tensor, mean: Tensor, squares: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Total weight (B, 1), mean and sum of squares around it (B, D) with frames (B, N, D) added."""
    added = weights.sum(dim=1)
    shares = weights / added.unsqueeze(1)
    center = (shares * x).sum(dim=1)
    spread = (weights * (x - center.unsqueeze(1)).square()).sum(dim=1)
    everything = total + added
    apart = center - mean
    part = added / everything
    return everything, mean + apart * part, squares + spread + apart.square() * total * part
