"""Encoders of one utterance, in the form that exports to the fewest and fastest nodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifmmin.export.folds import affine, fold_standardisation, weights
from ifmmin.runtime.modality import Modality
from ifmmin.train.encoders import SequenceEncoder, TextCNN
from ifmmin.train.network import EmotionNetwork
from ifmmin.train.statistics import CREST_FLOOR, StatisticsEncoder, frame_weights


class LatencySequenceEncoder(nn.Module):
    """LSTM and pooling over time of one utterance: (T, D) raw -> (1, E)."""

    start: Tensor

    def __init__(self, encoder: SequenceEncoder, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        source = encoder.rnn
        self.rnn = nn.LSTM(source.input_size, source.hidden_size, dtype=mean.dtype)
        state = source.state_dict()
        state["weight_ih_l0"], state["bias_ih_l0"] = fold_standardisation(
            state["weight_ih_l0"], state["bias_ih_l0"], mean, std
        )
        self.rnn.load_state_dict(state)
        # Without explicit initial states the exporter computes their shape from the input's.
        self.register_buffer("start", mean.new_zeros(1, 1, source.hidden_size))
        self.pooling = encoder.pooling
        if self.pooling == "attention":
            self.attention = affine(*weights(encoder.attention))
            self.attention_vector = affine(encoder.attention_vector.weight.detach(), None)

    def pool(self, x: Tensor) -> Tensor:
        """Raw (T, D) -> (1, E). Time-major, as ONNX has it, so that nothing is transposed."""
        outputs, (last, _) = self.rnn(x.unsqueeze(1), (self.start, self.start))
        if self.pooling == "last":
            state: Tensor = last
            return state.squeeze(0)
        if self.pooling == "sum":
            return torch.sum(outputs, dim=0)
        if self.pooling == "attention":
            scores = self.attention_vector(torch.tanh(self.attention(outputs)))
            return torch.sum(scores.softmax(dim=0) * outputs, dim=0)
        return torch.amax(outputs, dim=0)

    def embed(self, pooled: Tensor) -> Tensor:
        """What is pooled is the embedding."""
        return pooled


class LatencyTextCNN(nn.Module):
    """TextCNN of one utterance: (T, D) raw, T of at least the largest kernel -> (1, E).

    A convolution over the whole feature width beat matrix products in ONNX Runtime. The maximum
    comes before the ReLU: they commute, and the ReLU then sees one value a channel.
    """

    def __init__(self, encoder: TextCNN, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        for weight, bias in zip(encoder.weights, encoder.biases, strict=True):
            raw, shifted = fold_standardisation(weight.detach(), bias.detach(), mean, std)
            channels, kernel, dim = raw.shape
            convolution = nn.Conv2d(1, channels, (kernel, dim), dtype=mean.dtype)
            assert convolution.bias is not None
            with torch.no_grad():
                convolution.weight.copy_(raw[:, None])
                convolution.bias.copy_(shifted)
            self.convolutions.append(convolution)
        self.output = affine(*weights(encoder.output))

    def pool(self, x: Tensor) -> Tensor:
        """Raw (T, D) -> (1, P)."""
        image = x[None, None]
        pooled = [convolution(image).amax(dim=2).flatten(1) for convolution in self.convolutions]
        return F.relu(torch.cat(pooled, dim=1))

    def embed(self, pooled: Tensor) -> Tensor:
        """(1, P) -> (1, E)."""
        return F.relu(self.output(pooled))


class LatencyStatisticsEncoder(nn.Module):
    """Statistics over time of one utterance and their layer: (T, D) raw -> (1, E).

    Both standardisations, of frames and of statistics, are one; it stays apart from the layer,
    since statistics of raw features may lie far from zero compared with their deviation, and
    folded weights would cancel in float32.
    """

    offset: Tensor
    factor: Tensor
    crest_floor: Tensor

    def __init__(self, encoder: StatisticsEncoder, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.functionals = encoder.config.functionals
        self.limit = encoder.config.limit
        levels = ("mean", "max", "min", "weighted_mean")
        self.weight_column = encoder.config.weight_column
        moves = [mean if name in levels else 0 * mean for name in self.functionals]
        # A crest has no unit: it is of standardised frames already.
        scale = torch.cat([std if name != "crest" else 0 * std + 1 for name in self.functionals])
        self.register_buffer("crest_floor", CREST_FLOOR * std)
        self.register_buffer("offset", torch.cat(moves) + scale * encoder.offset)
        self.register_buffer("factor", 1.0 / (scale * encoder.scale))
        self.output = None if encoder.output is None else affine(*weights(encoder.output))

    def pool(self, x: Tensor) -> Tensor:
        """(T, D) -> (1, P)."""
        statistics = [self._functional(name, x) for name in self.functionals]
        pooled = (torch.cat(statistics, dim=1) - self.offset) * self.factor
        if self.limit is not None:
            pooled = pooled.clamp(-self.limit, self.limit)
        return pooled

    def _functional(self, name: str, x: Tensor) -> Tensor:
        """One statistic over the time of one utterance: (T, D) -> (1, D)."""
        if name == "max":
            return torch.amax(x, dim=0, keepdim=True)
        if name == "min":
            return torch.amin(x, dim=0, keepdim=True)
        if name == "delta":
            before = torch.cat([x[:1], x[:-1]])
            return (x - before).abs().mean(dim=0, keepdim=True)
        if name.startswith("weighted"):
            return self._weighted(name, x)
        mean = x.mean(dim=0, keepdim=True)
        if name == "mean":
            return mean
        std = (x - mean).square().mean(dim=0, keepdim=True).sqrt()
        if name == "std":
            return std
        return (torch.amax(x, dim=0, keepdim=True) - mean) / (std + self.crest_floor)

    def _weighted(self, name: str, x: Tensor) -> Tensor:
        assert self.weight_column is not None
        weights = frame_weights(x[:, self.weight_column : self.weight_column + 1])
        shares = (weights / weights.sum(dim=0, keepdim=True)).T
        mean = shares @ x
        if name == "weighted_mean":
            return mean
        return (shares @ (x - mean).square()).sqrt()

    def embed(self, pooled: Tensor) -> Tensor:
        """(1, P) -> (1, E)."""
        return pooled if self.output is None else torch.tanh(self.output(pooled))


LatencyEncoder = LatencySequenceEncoder | LatencyTextCNN | LatencyStatisticsEncoder


def latency_encoder(network: EmotionNetwork, modality: Modality) -> LatencyEncoder:
    """The encoder of a modality with its standardisation folded in."""
    encoder = network.encoder(modality)
    normaliser = network.normaliser(modality)
    mean, std = normaliser.mean, normaliser.std
    if isinstance(encoder, StatisticsEncoder):
        return LatencyStatisticsEncoder(encoder, mean, std)
    if isinstance(encoder, TextCNN):
        return LatencyTextCNN(encoder, mean, std)
    return LatencySequenceEncoder(encoder, mean, std)
