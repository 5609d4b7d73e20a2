"""From utterances of different lengths to the inputs of a throughput graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.bundle import Features


def pad_batch(utterances: Sequence[Features], filler: float = 0.0) -> dict[str, NDArray[Any]]:
    """Frames (B, T, D) and lengths (B,) per modality, T the longest of the batch.

    utterances: all with the same modalities. filler: what lies past an end; graphs do not care.
    """
    inputs: dict[str, NDArray[Any]] = {}
    for modality, first in utterances[0].items():
        arrays = [utterance[modality] for utterance in utterances]
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        padded = np.full((len(arrays), lengths.max(), first.shape[1]), filler, np.float32)
        for row, array in enumerate(arrays):
            padded[row, : len(array)] = array
        inputs[modality.value], inputs[f"{modality}_lengths"] = padded, lengths
    return inputs
