"""The network in PyTorch, as it is after training: nothing exported, nothing compiled."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifmmin.benchmarks.peers.base import Contender, Features, Lengths
from ifmmin.benchmarks.peers.whole import standardise, whole
from ifmmin.runtime.modality import MODALITIES
from ifmmin.train.network import EmotionNetwork

Tensors = tuple[Tensor, ...]
"""Standardised frames (T, D) of a, v and t."""


class Eager(Contender):
    """PyTorch's eager mode under `torch.inference_mode`.

    PyTorch has one number of threads for the whole process; a call sets it where it is another.
    """

    def __init__(self, network: EmotionNetwork, threads: int = 1) -> None:
        super().__init__(network, threads)
        self._module = whole(network)

    def prepare(self, features: Features, lengths: Lengths) -> Tensors:
        """Tensors that share no memory with the features."""
        found = standardise(self.network, features, lengths)
        return tuple(torch.from_numpy(found[m].copy()) for m in MODALITIES)

    def __call__(self, inputs: Tensors) -> NDArray[np.float32]:
        """Logits (C,)."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            logits: NDArray[np.float32] = self._answer(inputs)[0].numpy()
        return logits

    def _answer(self, inputs: Tensors) -> Tensor:
        answer: Tensor = self._module(*inputs)
        return answer
