"""The peer to beat: the whole network exported once to ONNX Runtime, zeros for what is missing.

It is a sound export (maximum over the real time axis, dynamic axes), better than the reference's
own code would give. Its inputs are already standardised; that work is not counted against it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ifmmin.export.encoders import ExportEncoder
from ifmmin.export.encoders.front import Front
from ifmmin.export.encoders.sequence import ExportSequenceEncoder
from ifmmin.export.encoders.text import ExportTextCNN
from ifmmin.export.graph import trace
from ifmmin.runtime.backends.onnx_runtime import OnnxRuntimeCpu
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.encoders import SequenceEncoder, TextCNN
from ifmmin.train.network import EmotionNetwork

Standardised = Mapping[Modality, NDArray[np.float32]]


class _Whole(nn.Module):
    """All encoders, S, imagination, classifier: (T, D) for a, v and t -> (1, C)."""

    def __init__(self, network: EmotionNetwork) -> None:
        super().__init__()
        self.network = network
        self.encoders = nn.ModuleDict({m.value: _encoder(network, m) for m in MODALITIES})

    def forward(self, a: Tensor, v: Tensor, t: Tensor) -> Tensor:
        given = zip(MODALITIES, (a, v, t), strict=True)
        h = torch.stack([self._embed(m, x) for m, x in given], dim=1)
        every = torch.ones(1, len(MODALITIES), dtype=torch.bool)
        return self.network.head(h, every).logits

    def _embed(self, modality: Modality, x: Tensor) -> Tensor:
        encoder: ExportEncoder = self.encoders[modality.value]  # type: ignore[assignment]
        return encoder.embed(encoder.pool(x))


def _encoder(network: EmotionNetwork, modality: Modality) -> ExportEncoder:
    """The encoder on standardised frames."""
    encoder = network.encoder(modality)
    front = Front(None, half=False, standard=None)
    if isinstance(encoder, TextCNN):
        return ExportTextCNN(encoder, front, None)
    assert isinstance(encoder, SequenceEncoder), "the monolith is the reference's network"
    return ExportSequenceEncoder(encoder, front, None)


class Monolith:
    """A session of the whole network, all three inputs always given, bound as ours are."""

    def __init__(self, network: EmotionNetwork, threads: int = 1) -> None:
        self._network = network
        self._run = OnnxRuntimeCpu(threads).load(_export(network))

    def prepare(
        self, features: Standardised, absent_frames: Mapping[Modality, int]
    ) -> Standardised:
        """Standardise what is present (raw, (T, D)), zeros of `absent_frames` for the rest."""
        inputs = {}
        for modality in MODALITIES:
            if modality in features:
                raw = torch.from_numpy(features[modality].astype(np.float32))
                inputs[modality] = self._network.normaliser(modality)(raw).numpy()
            else:
                dim = self._network.config.features[modality].dim
                inputs[modality] = np.zeros((absent_frames[modality], dim), dtype=np.float32)
        return inputs

    def __call__(self, inputs: Standardised) -> NDArray[np.float32]:
        """Logits (C,) of prepared inputs."""
        logits: NDArray[np.float32] = self._run({m.value: x for m, x in inputs.items()})[0][0]
        return logits


def _export(network: EmotionNetwork) -> bytes:
    names = [m.value for m in MODALITIES]
    inputs = tuple(torch.zeros(7, network.config.features[m].dim) for m in MODALITIES)
    axes = {name: {0: f"T_{name}"} for name in names}
    model = trace(_Whole(network), inputs, names, ["logits"], axes)
    content: bytes = model.SerializeToString()
    return content
