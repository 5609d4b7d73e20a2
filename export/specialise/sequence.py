"""LSTM encoders in the forms in which they are exported, and running statistics over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ifmmin.train.model.encoders import SequenceEncoder

from .encoder import ExportEncoder, Front, State, inside
from .fold import affine, fold_standardisation, weights

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


_LOWEST_OUTPUT = -1.0
"""An LSTM's outputs lie above it."""
_LOWEST_SCORE = -6e4
"""Below any attention score; float16 holds it."""


class ExportSequenceEncoder(ExportEncoder):
    """LSTM and pooling over time.

    recurrence: `lstm` for the operator, `scan` for the loop of `loop.py`; steps of a stream are
    always the operator, since few frames come at a time.
    """

    start: Tensor
    floor: Tensor

    def __init__(
        self,
        encoder: SequenceEncoder,
        front: Front,
        standard: tuple[Tensor, Tensor] | None,
        recurrence: str = "lstm",
        *,
        clears_padding: bool = False,
    ) -> None:
        super().__init__()
        self.front = front
        self.clears_padding = clears_padding
        self.pooling = encoder.pooling
        self.pooled_size = encoder.pooled_size
        self.recurrence = recurrence
        source = encoder.rnn
        state = {name: value.detach().clone() for name, value in source.state_dict().items()}
        if standard is not None:
            state["weight_ih_l0"], state["bias_ih_l0"] = fold_standardisation(
                state["weight_ih_l0"], state["bias_ih_l0"], *standard
            )
        dtype = state["weight_ih_l0"].dtype
        self.rnn = nn.LSTM(source.input_size, source.hidden_size, dtype=dtype)
        self.rnn.load_state_dict(state)
        if recurrence == "scan":
            bias = state["bias_ih_l0"] + state["bias_hh_l0"]
            self.project = affine(state["weight_ih_l0"], bias)
        # Without explicit initial states the exporter computes their shape from the input's.
        self.register_buffer("start", torch.zeros(1, 1, source.hidden_size, dtype=dtype))
        floor = _LOWEST_OUTPUT if self.pooling == "maximum" else 0.0
        self.register_buffer("floor", torch.full((1, source.hidden_size), floor, dtype=dtype))
        if self.pooling == "attention":
            self.attention = affine(*weights(encoder.attention))
            self.attention_vector = affine(encoder.attention_vector.weight.detach(), None)
        self.states = _states(self.pooling, source.hidden_size)

    def pool(self, x: Tensor) -> Tensor:
        """Raw (T, D) -> (1, E). Time-major, as ONNX has it, so that nothing is transposed."""
        frames = self.front(x)
        if self.recurrence == "scan":
            return self._pool_loop(frames.unsqueeze(0), None)
        outputs, (last, _) = self.rnn(frames.unsqueeze(1), (self.start, self.start))
        return last.squeeze(0) if self.pooling == "last" else self._pool(outputs)

    def pool_batch(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Raw (B, T, D), (B,) -> (B, E). The LSTM is causal: only the pooling sees an end."""
        frames, within = self.front(x), inside(x, lengths)
        if self.clears_padding:
            frames = frames.masked_fill(~within, 0.0)
        if self.recurrence == "scan":
            return self._pool_loop(frames, within)
        frames, within = frames.transpose(0, 1), within.transpose(0, 1)
        start = frames.new_zeros(1, x.shape[0], self.pooled_size)
        outputs = self.rnn(frames, (start, start))[0]
        if self.pooling == "last":
            # The state of the last frame, and zeros elsewhere, summed: no indices to gather.
            frame = torch.arange(x.shape[1])[:, None, None]
            chosen = frame == (lengths - 1)[None, :, None]
            return torch.where(chosen, outputs, 0.0 * outputs[:1]).sum(dim=0)
        return self._pool(outputs, within)

    def step(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Raw (B, N, D), hidden and cell (B, E) and what the pooling keeps."""
        hidden, cell, *kept = states
        frames = self.front(x).transpose(0, 1)
        outputs, (last, next_cell) = self.rnn(frames, (hidden.unsqueeze(0), cell.unsqueeze(0)))
        last, next_cell = last.squeeze(0), next_cell.squeeze(0)
        if self.pooling == "last":
            return last, [last, next_cell]
        if self.pooling == "attention":
            pooled, kept = self._attend_on(outputs, kept)
            return pooled, [last, next_cell, *kept]
        new = self._pool(outputs)
        pooled = kept[0] + new if self.pooling == "sum" else torch.maximum(kept[0], new)
        return pooled, [last, next_cell, pooled]

    def embed(self, pooled: Tensor) -> Tensor:
        """What is pooled is the embedding."""
        return pooled

    def _pool(self, outputs: Tensor, within: Tensor | None = None, time: int = 0) -> Tensor:
        """Outputs (T, B, E) -> (B, E), over the frames where `within` (T, B, 1) is true.

        time: the axis of the frames; with 1 both are (B, T, ...).
        """
        if self.pooling == "sum":
            kept = outputs if within is None else torch.where(within, outputs, 0.0 * outputs)
            return kept.sum(dim=time)
        if self.pooling == "attention":
            scores = self._scores(outputs)
            if within is not None:
                scores = scores.masked_fill(~within, _LOWEST_SCORE)
            return (scores.softmax(dim=time) * outputs).sum(dim=time)
        kept = outputs if within is None else outputs.masked_fill(~within, _LOWEST_OUTPUT)
        return torch.amax(kept, dim=time)

    def _pool_loop(self, frames: Tensor, within: Tensor | None) -> Tensor:
        """The same by the loop: frames (B, T, D), within (B, T, 1) -> (B, E)."""
        start, floor, mask = self.start[0], self.floor, torch.empty(0, dtype=torch.bool)
        if within is not None:
            start = frames.new_zeros(frames.shape[0], self.pooled_size)
            floor, mask = start + self.floor, within
        recurrent = self.rnn.get_parameter("weight_hh_l0").t()
        found: Tensor = PooledLstm.apply(
            self.project(frames), recurrent, start, floor, mask, self.pooling
        )  # type: ignore[no-untyped-call]
        if self.pooling in RUNNING_POOLINGS:
            return found
        return self._pool(found, within, time=1)

    def _scores(self, outputs: Tensor) -> Tensor:
        scores: Tensor = self.attention_vector(torch.tanh(self.attention(outputs)))
        return scores

    def _attend_on(self, outputs: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Softmax over all frames so far, by the largest score, its weights' sum and the sum of
        weighted outputs."""
        top, total, weighted = kept
        scores = self._scores(outputs)
        next_top = torch.maximum(top, scores.amax(dim=0))
        shares, fade = torch.exp(scores - next_top), torch.exp(top - next_top)
        total = total * fade + shares.sum(dim=0)
        weighted = weighted * fade + (shares * outputs).sum(dim=0)
        return weighted / total, [next_top, total, weighted]


def _states(pooling: str, size: int) -> tuple[State, ...]:
    running = (State("hidden", 0.0, (size,), pools=pooling == "last"), State("cell", 0.0, (size,)))
    more = {
        "last": (),
        "maximum": (State("maximum", _LOWEST_OUTPUT, (size,), pools=True),),
        "sum": (State("sum", 0.0, (size,), pools=True),),
        "attention": (
            State("top", _LOWEST_SCORE, (1,)),
            State("total", 0.0, (1,)),
            State("weighted", 0.0, (size,)),
        ),
    }
    return running + more[pooling]


_LOWEST, _HIGHEST = -3e38, 3e38


def statistic(
    name: str, x: Tensor, within: Tensor | None, weights: Tensor | None, crest_floor: Tensor
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
