"""The peer to beat: the whole network exported once to ONNX Runtime, zeros for what is missing.

It is a sound export (maximum over the real time axis, dynamic axes), better than the reference's
own code would give. Its inputs are already standardised; that work is not counted against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ifmmin.export.encoders import LatencySequenceEncoder, LatencyTextCNN
from ifmmin.export.graph import trace
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.encoders import TextCNN
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
        h = torch.stack([self.encoders[m.value](x) for m, x in given], dim=1)
        return self.network.head(h).logits


def _encoder(network: EmotionNetwork, modality: Modality) -> nn.Module:
    encoder = network.encoder(modality)
    dim = network.config.features[modality].dim
    mean, std = torch.zeros(dim), torch.ones(dim)
    if isinstance(encoder, TextCNN):
        return LatencyTextCNN(encoder, mean, std)
    return LatencySequenceEncoder(encoder, mean, std)


class Monolith:
    """A session of the whole network, all three inputs always given."""

    def __init__(self, network: EmotionNetwork, threads: int = 1) -> None:
        import onnxruntime

        self._network = network
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(
            _export(network), options, providers=["CPUExecutionProvider"]
        )
        self._binding = self._session.io_binding()
        self._binding.bind_output("logits")

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
        for modality, array in inputs.items():
            self._binding.bind_cpu_input(modality.value, array)
        self._session.run_with_iobinding(self._binding)
        logits: NDArray[np.float32] = self._binding.copy_outputs_to_cpu()[0][0]
        return logits


def _export(network: EmotionNetwork) -> bytes:
    names = [m.value for m in MODALITIES]
    inputs = tuple(torch.zeros(7, network.config.features[m].dim) for m in MODALITIES)
    content: bytes = trace(_Whole(network), inputs, names).SerializeToString()
    return content
