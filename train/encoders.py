"""One encoder per modality, each in two steps: `pool` over time, then `embed`.

Between the two stands a vector without time. A missing modality is that vector of an all-zero
input, so no length of an absent signal can leak into an answer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.config import ModelConfig


def time_mask(lengths: Tensor, frames: int) -> Tensor:
    """True where a frame belongs to its utterance: (B,) lengths -> (B, frames)."""
    return torch.arange(frames, device=lengths.device)[None, :] < lengths[:, None]


class SequenceEncoder(nn.Module):
    """LSTM with the maximum over time of its outputs: (B, T, D) -> (B, E) (reference: A, V)."""

    def __init__(self, dim: int, embedding: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(dim, embedding, batch_first=True)
        self.pooled_size = embedding

    def pool(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), (B,) of at least 1 -> (B, E); frames past an end never count."""
        outputs: Tensor = self.rnn(x)[0]
        inside = time_mask(lengths, x.shape[1])[..., None]
        return outputs.masked_fill(~inside, -torch.inf).amax(dim=1)

    def embed(self, pooled: Tensor) -> Tensor:
        """The maximum is the embedding."""
        return pooled


class TextCNN(nn.Module):
    """Convolutions over tokens, maximum over time, one layer: (B, T, D) -> (B, E) (reference: L).

    All kernels are computed as one matrix product of every token with every kernel row, then summed
    along shifted time; that is 3 to 4 times faster on a CPU in training than Conv2d over (k, D).
    """

    def __init__(
        self, dim: int, embedding: int, channels: int, kernels: tuple[int, ...], dropout: float
    ) -> None:
        super().__init__()
        self.kernels = kernels
        self.channels = channels
        self.pooled_size = channels * len(kernels)
        # (channels, k, D): as the reference's (channels, 1, k, D) without its empty axis.
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.empty(channels, k, dim)) for k in kernels]
        )
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(channels)) for _ in kernels])
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(self.pooled_size, embedding)

    def pool(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D), (B,) of at least max(kernels) -> (B, channels * kernels)."""
        rows = torch.cat([w.transpose(0, 1).reshape(-1, w.shape[-1]) for w in self.weights])
        products = F.linear(x, rows)
        pooled = []
        first = 0
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            windows = x.shape[1] - kernel + 1
            total = bias
            for offset in range(kernel):
                block = products[..., first : first + self.channels]
                total = total + block[:, offset : offset + windows]
                first += self.channels
            inside = time_mask(lengths - (kernel - 1), windows)[..., None]
            pooled.append(F.relu(total).masked_fill(~inside, 0.0).amax(dim=1))
        return torch.cat(pooled, dim=1)

    def embed(self, pooled: Tensor) -> Tensor:
        """(B, channels * kernels) -> (B, E)."""
        return F.relu(self.output(self.dropout(pooled)))


Encoder = SequenceEncoder | TextCNN


def build_encoders(config: ModelConfig) -> dict[Modality, Encoder]:
    """The three encoders: LSTMs for a and v, a TextCNN for t."""
    architecture = config.architecture
    encoders: dict[Modality, Encoder] = {}
    for modality in MODALITIES:
        dim = config.features[modality].dim
        if modality is Modality.T:
            encoders[modality] = TextCNN(
                dim,
                architecture.embedding,
                architecture.text_channels,
                architecture.text_kernels,
                architecture.text_dropout,
            )
        else:
            encoders[modality] = SequenceEncoder(dim, architecture.embedding)
    return encoders
