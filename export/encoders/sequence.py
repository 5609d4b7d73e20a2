"""LSTM encoders in the forms in which they are exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ifmmin.export.encoders.base import ExportEncoder, State, inside
from ifmmin.export.encoders.front import Front
from ifmmin.export.encoders.loop import RUNNING_POOLINGS, PooledLstm
from ifmmin.export.folds import affine, fold_standardisation, weights
from ifmmin.train.encoders import SequenceEncoder

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
    running = (
        State("hidden", 0.0, (size,), pools=pooling == "last"),
        State("cell", 0.0, (size,)),
    )
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
