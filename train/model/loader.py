"""Batch loader of training: a part of the corpus, shuffled, of similar lengths, pooled once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.corpus import Batch, Utterance, collate
from .network import EmotionNetwork

Rows = NDArray[np.int64]

_POOL_AT_ONCE = 64


class BatchLoader:
    """Batches of some utterances for a network.

    Where pooling has no trained weights (statistics), every utterance is pooled here, once, and
    batches carry the pooled values alone.
    """

    def __init__(self, network: EmotionNetwork, utterances: Sequence[Utterance]) -> None:
        self.utterances = utterances
        self.labels = torch.tensor([u.label for u in utterances])
        self._config = network.config
        self._dtype = network.temperatures.dtype
        self._pooled = _pool(network, utterances) if network.pools_once else None

    def __len__(self) -> int:
        return len(self.utterances)

    def batch(self, rows: Rows) -> Batch:
        """The utterances at `rows` (B,)."""
        if self._pooled is None:
            return collate([self.utterances[i] for i in rows], self._config).to(self._dtype)
        index = torch.from_numpy(rows)
        pooled, lengths = self._pooled.pooled, self._pooled.lengths
        assert pooled is not None
        return Batch(
            features={},
            lengths={m: x[index] for m, x in lengths.items()},
            labels=self.labels[index],
            pooled={m: x[index] for m, x in pooled.items()},
        )

    def in_order(self, size: int) -> Iterator[Batch]:
        """All utterances in batches of at most `size`."""
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))))

    def costs(self) -> NDArray[np.int64]:
        """Numbers (N,) that each utterance holds, by which batches of similar length are made."""
        return np.array([sum(x.size for x in u.features.values()) for u in self.utterances])

    @property
    def sorts(self) -> bool:
        """Whether batches of similar length save anything."""
        return self._pooled is None


def _pool(network: EmotionNetwork, utterances: Sequence[Utterance]) -> Batch:
    pieces: list[Batch] = []
    modalities = network.config.modalities
    for start in range(0, len(utterances), _POOL_AT_ONCE):
        batch = collate(utterances[start : start + _POOL_AT_ONCE], network.config)
        batch = batch.to(network.temperatures.dtype)
        with torch.no_grad():
            pooled = {m: network.pool_or_missing(batch, m) for m in modalities}
        pieces.append(Batch({}, batch.lengths, batch.labels, pooled))

    def joined(tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors)

    return Batch(
        features={},
        lengths={m: joined([p.lengths[m] for p in pieces]) for m in modalities},
        labels=joined([p.labels for p in pieces]),
        pooled={m: joined([p.pooled[m] for p in pieces if p.pooled]) for m in modalities},
    )


def endless_rows(
    loader: BatchLoader, size: int, buckets: int, draws: np.random.Generator
) -> Iterator[Rows]:
    """Endless passes of shuffled batches of `size`, the last of a pass maybe smaller.

    Groups of `buckets` batches are sorted by length, so that little is padded; which utterances
    share a group, and the order of a group's batches, is drawn anew every pass.
    """
    size = min(size, len(loader))
    costs = loader.costs() if buckets > 1 and loader.sorts else None
    while True:
        order = draws.permutation(len(loader))
        for start in range(0, len(order), size * buckets):
            group = order[start : start + size * buckets]
            if costs is not None:
                group = group[np.argsort(costs[group], kind="stable")]
            batches = [group[i : i + size] for i in range(0, len(group), size)]
            if costs is not None:
                batches = [batches[i] for i in draws.permutation(len(batches))]
            yield from batches
