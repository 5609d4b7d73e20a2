"""The frozen stage-1 network, and what it says of whole utterances."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ifmmin.train.batch import Batch
from ifmmin.train.feed import Feed, Rows
from ifmmin.train.models import FusionNetwork

_AT_ONCE = 64


class View(NamedTuple):
    """What the teacher sees in a batch, all modalities present that the utterances have."""

    full: Tensor
    """Embeddings (B, M, E)."""
    absent: Tensor
    """Its embeddings of missing modalities (M, E)."""
    invariant: Tensor | None
    """H' (B, M, E)."""
    logits: Tensor
    """(B, C)"""


class Teacher:
    """Looks at every training utterance once: it is frozen, and an answer has no batch mates.

    With reference batches an answer does depend on them, so it looks at every batch anew.
    """

    def __init__(self, network: FusionNetwork, feed: Feed) -> None:
        self._network = network.eval().requires_grad_(False)
        self._seen = None if network.reference_batches else self._see_all(feed)

    def see(self, batch: Batch, rows: Rows) -> View:
        """Its view of a batch that holds the utterances `rows` of its feed."""
        if self._seen is None:
            return self._look(batch)
        index = torch.from_numpy(rows)
        seen = self._seen
        invariant = None if seen.invariant is None else seen.invariant[index]
        return View(seen.full[index], seen.absent, invariant, seen.logits[index])

    def _look(self, batch: Batch) -> View:
        with torch.no_grad():
            full = self._network.embeddings(batch)
            output = self._network.head(full, batch.present)
            absent = self._network.absent_embeddings(batch)
        return View(full, absent, output.invariant, output.logits)

    def _see_all(self, feed: Feed) -> View:
        views = [self._look(batch) for batch in feed.in_order(_AT_ONCE)]
        invariants = [view.invariant for view in views if view.invariant is not None]
        return View(
            torch.cat([view.full for view in views]),
            views[0].absent,
            torch.cat(invariants) if invariants else None,
            torch.cat([view.logits for view in views]),
        )
