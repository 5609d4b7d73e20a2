"""Encoders of one utterance, in the form that exports to the fewest and fastest nodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifmmin.export.folds import affine, fold_standardisation, weights
from ifmmin.runtime.modality import Modality
from ifmmin.train.encoders import SequenceEncoder, TextCNN
from ifmmin.train.network import EmotionNetwork


class LatencySequenceEncoder(nn.Module):
    """LSTM and maximum over time of one utterance: (T, D) raw -> (1, E)."""

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

    def forward(self, x: Tensor) -> Tensor:
        """Time-major, as ONNX has it, so that nothing is transposed."""
        outputs: Tensor = self.rnn(x.unsqueeze(1), (self.start, self.start))[0]
        return outputs.amax(dim=0)


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

    def forward(self, x: Tensor) -> Tensor:
        """(T, D) -> (1, E)."""
        image = x[None, None]
        pooled = [convolution(image).amax(dim=2).flatten(1) for convolution in self.convolutions]
        return F.relu(self.output(F.relu(torch.cat(pooled, dim=1))))


def latency_encoder(network: EmotionNetwork, modality: Modality) -> nn.Module:
    """The encoder of a modality with its standardisation folded in."""
    encoder = network.encoder(modality)
    normaliser = network.normaliser(modality)
    if isinstance(encoder, TextCNN):
        return LatencyTextCNN(encoder, normaliser.mean, normaliser.std)
    return LatencySequenceEncoder(encoder, normaliser.mean, normaliser.std)
