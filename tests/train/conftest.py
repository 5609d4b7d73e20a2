"""A sweep so small that a unit trains in less than a second."""

from __future__ import annotations

import pytest

_TINY = (
    "corpus.modalities={a: {dim: 5, frames: [2, 6]}, v: {dim: 6, frames: [2, 6]}, "
    "t: {dim: 7, frames: [3, 9], missing_length: 5}}",
    "corpus.train=48",
    "corpus.validation=40",
    "corpus.test=40",
    "network={embedding: 8, text_channels: 4, blocks: 2, block_sizes: [8, 4]}",
    "stage1={epochs: 2, decay_epochs: 0, batch_size: 16, learning_rate: 3.0e-3, dropout: 0.3, "
    "clip: 0.5, cmd: 0.1}",
    "stage2={epochs: 3, decay_epochs: 0, batch_size: 16, learning_rate: 3.0e-3, dropout: 0.5, "
    "clip: 1.0, invariance: 10.0}",
)


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Options of `fit` and `sweep` for a tiny synthetic corpus and network."""
    return ["--recipe", "synthetic", *(x for text in _TINY for x in ("--set", text))]
