"""The whole network as the reference runs it: every encoder, on zeros for what is missing.

This is what one has who takes the network as it is published: one module, three inputs. It is a
sound form of it (the maximum is over the real time axis), better than the reference's own code,
which freezes the length it was exported at. Inputs are already standardised.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ifmmin.benchmarks.peers.base import Features, Lengths
from ifmmin.export.encoders import ExportEncoder
from ifmmin.export.encoders.front import Front
from ifmmin.export.encoders.sequence import ExportSequenceEncoder
from ifmmin.export.encoders.text import ExportTextCNN
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.batch import collate
from ifmmin.train.corpus import Utterance
from ifmmin.train.encoders import SequenceEncoder, TextCNN
from ifmmin.train.network import EmotionNetwork

Standardised = Mapping[Modality, NDArray[np.float32]]
"""Per modality, all three of them, frames (T, D) as the encoders see them."""


def unsupported(network: EmotionNetwork) -> str | None:
    """Why the reference's way of running says nothing about a network; None where it does."""
    if network.config.architecture.statistics is not None:
        return (
            "the network pools statistics, for which zeros do not stand for a missing modality; "
            "peers run LSTM and text convolutions"
        )
    return None


class WholeNetwork(nn.Module):
    """All encoders, S, imagination, classifier: (T, D) for a, v and t -> (1, C)."""

    every: Tensor

    def __init__(self, network: EmotionNetwork) -> None:
        super().__init__()
        self.a, self.v, self.t = (_Encode(network, m) for m in MODALITIES)
        self.network = copy.deepcopy(network)  # of which only the head runs
        self.register_buffer("every", torch.ones(1, len(MODALITIES), dtype=torch.bool))

    def forward(self, a: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """Logits before calibration."""
        h = torch.stack([self.a(a), self.v(v), self.t(t)], dim=1)
        return self.network.head(h, self.every).logits


class _Encode(nn.Module):
    """Standardised frames (T, D) -> (1, E)."""

    def __init__(self, network: EmotionNetwork, modality: Modality) -> None:
        super().__init__()
        self.encoder = _encoder(network, modality)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder.embed(self.encoder.pool(x))


def whole(network: EmotionNetwork) -> WholeNetwork:
    """The module, in eval mode, without gradients, with weights of its own."""
    return WholeNetwork(network).requires_grad_(False).eval()


def _encoder(network: EmotionNetwork, modality: Modality) -> ExportEncoder:
    """The encoder on standardised frames: an LSTM, or text convolutions over the whole width."""
    encoder = network.encoder(modality)
    front = Front(None, half=False, standard=None)
    if isinstance(encoder, TextCNN):
        return ExportTextCNN(encoder, front, None)
    assert isinstance(encoder, SequenceEncoder), "see `unsupported`"
    return ExportSequenceEncoder(encoder, front, None)


def standardise(network: EmotionNetwork, features: Features, lengths: Lengths) -> Standardised:
    """Standardise what is present (raw, (T, D)); zeros of `lengths` frames for the rest.

    Inputs shorter than the network takes are padded as everywhere.
    """
    batch = collate([Utterance("timed", dict(features), 0)], network.config)
    inputs = {}
    for modality in MODALITIES:
        if int(batch.lengths[modality]):
            frames = network.frames(batch.features[modality][0], modality).numpy()
        else:
            count = max(lengths[modality], network.config.minimum_length(modality))
            frames = np.zeros((count, network.config.frame_width(modality)), dtype=np.float32)
        inputs[modality] = np.ascontiguousarray(frames)
    return inputs


def example_inputs(network: EmotionNetwork) -> tuple[Tensor, ...]:
    """Zeros (T, D) for a, v and t to trace with; no two sizes are alike, nor taken for one."""
    widths = [network.config.frame_width(m) for m in MODALITIES]
    shortest = max(network.config.minimum_length(m) for m in MODALITIES)
    lengths = [n for n in range(shortest + 2, shortest + 8) if n not in widths]
    return tuple(torch.zeros(n, width) for n, width in zip(lengths, widths, strict=False))
