"""What each stage minimises on a batch, term by term."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifmmin.runtime.modality import ALL_PATTERNS, INCOMPLETE_PATTERNS
from ifmmin.train.batch import Batch, pattern_mask
from ifmmin.train.feed import Feed, Rows
from ifmmin.train.imagination import Imagination
from ifmmin.train.layers import initialise
from ifmmin.train.losses import (
    bounded,
    distillation_error,
    imagination_target,
    invariance_discrepancy,
    missing_error,
)
from ifmmin.train.models import fusion_flat
from ifmmin.train.network import EmotionNetwork, Output
from ifmmin.train.schedule import Schedule, Stage2
from ifmmin.train.teacher import Teacher, View

Terms = dict[str, Tensor]
"""Weighted terms of a loss, scalars."""


class Seen(NamedTuple):
    """A batch as a network saw it: N cases, which are its utterances under their patterns."""

    output: Output
    h: Tensor
    """Embeddings (N, M, E) that went into the head."""
    labels: Tensor
    """(N,)"""
    present: Tensor
    """(N, M) bool"""
    cases: Tensor
    """The utterance (N,) of each case."""


class Objective:
    """The terms without a teacher: cross-entropy and CMD."""

    def __init__(
        self, network: EmotionNetwork, stage: Schedule, feed: Feed, draws: np.random.Generator
    ) -> None:
        self.network = network
        self.stage = stage
        self._draws = draws
        self._patterns = pattern_mask(
            INCOMPLETE_PATTERNS if stage.patterns == "incomplete" else ALL_PATTERNS
        )
        self._weight = class_weights(feed.labels, network) if stage.class_balance else None

    def parts(self) -> dict[str, nn.Module]:
        """What is trained: sub-networks whose gradients are clipped apart."""
        return self.network.parts()

    def losses(self, batch: Batch, rows: Rows) -> Terms:
        """The weighted terms on a batch of the feed's utterances `rows`."""
        return self.own_terms(self.see(batch))

    def see(self, batch: Batch) -> Seen:
        """Run the network under the stage's patterns."""
        present, cases = batch.present, torch.arange(len(batch))
        if self.stage.patterns == "every":
            keep = (self._patterns[:, None] & present[None]).flatten(0, 1)
            some = keep.any(dim=1)
            keep, cases = keep[some], cases.repeat(len(self._patterns))[some]
            absent = self.network.absent_embeddings(batch)
            h = torch.where(keep[..., None], self.network.embeddings(batch)[cases], absent)
        else:
            keep = present
            if self.stage.patterns != "full":
                keep = draw_patterns(present, self._patterns, self._draws)
            h = self.network.embeddings(batch.masked(keep))
        return Seen(self.network.head(h, keep), h, batch.labels[cases], keep, cases)

    def own_terms(self, seen: Seen) -> Terms:
        """The terms that need no teacher."""
        stage, output = self.stage, seen.output
        error = F.cross_entropy(
            output.logits, seen.labels, self._weight, label_smoothing=stage.label_smoothing
        )
        terms = {"cross_entropy": error}
        if stage.cmd and output.invariant is not None:
            invariant = output.invariant
            if stage.cmd_bounded:
                invariant = bounded(invariant, seen.present)
            terms["cmd"] = stage.cmd * invariance_discrepancy(invariant, seen.present)
        return terms


class TaughtObjective(Objective):
    """Stage 2: also imagination, invariance, cycle and distillation after a teacher."""

    stage: Stage2

    def __init__(
        self,
        network: EmotionNetwork,
        stage: Stage2,
        feed: Feed,
        draws: np.random.Generator,
        teacher: Teacher,
    ) -> None:
        super().__init__(network, stage, feed, draws)
        self._teacher = teacher
        self._cycle: Imagination | None = None
        if network.config.architecture.model == "mmin" and stage.cycle:
            self._cycle = self._build_cycle(stage.cycle_shared)

    def parts(self) -> dict[str, nn.Module]:
        """The network's parts and the second imagination module."""
        parts = super().parts()
        own = self._cycle is not None and self._cycle is not parts["imagination"]
        return parts | {"cycle": self._cycle} if own and self._cycle is not None else parts

    def _build_cycle(self, shared: bool) -> Imagination:
        if shared:
            imagination: Imagination = self.network.get_submodule("imagination")  # type: ignore[assignment]
            return imagination
        # Needed by the loss alone, so it is no part of the network and of its checkpoint.
        made = Imagination(self.network.config.architecture, "residual")
        initialise(made)
        return made

    def losses(self, batch: Batch, rows: Rows) -> Terms:
        """The weighted terms on a batch of the feed's utterances `rows`."""
        seen = self.see(batch)
        view = self._teacher.see(batch, rows)
        return self.own_terms(seen) | self._taught_terms(seen, view)

    def _taught_terms(self, seen: Seen, view: View) -> Terms:
        stage, output = self.stage, seen.output
        assert output.imagined is not None
        full = view.full[seen.cases]
        terms: Terms = {}
        if stage.imagination:
            terms["imagination"] = stage.imagination * self._imagination(seen, full, view.absent)
        if stage.invariance and output.invariant is not None and view.invariant is not None:
            error = F.mse_loss(output.invariant, view.invariant[seen.cases])
            terms["invariance"] = stage.invariance * error
        if self._cycle is not None:
            again = self._cycle(fusion_flat(output.imagined), None)[1]
            terms["cycle"] = stage.cycle * F.mse_loss(again, fusion_flat(seen.h).detach())
        if stage.distillation:
            error = distillation_error(output.logits, view.logits[seen.cases])
            terms["distillation"] = stage.distillation * error
        return terms

    def _imagination(self, seen: Seen, full: Tensor, absent: Tensor) -> Tensor:
        assert seen.output.imagined is not None
        if self.stage.imagination_of == "missing":
            return missing_error(seen.output.imagined, full, ~seen.present)
        return F.mse_loss(seen.output.imagined, imagination_target(full, absent, seen.present))


def draw_patterns(present: Tensor, patterns: Tensor, draws: np.random.Generator) -> Tensor:
    """A pattern of `patterns` (P, M) for each utterance, within what is `present` (B, M).

    Where the drawn pattern would leave nothing, the utterance keeps what it has.
    """
    keep = patterns[torch.from_numpy(draws.integers(len(patterns), size=len(present)))] & present
    return torch.where(keep.any(dim=1, keepdim=True), keep, present)


def class_weights(labels: Tensor, network: EmotionNetwork) -> Tensor:
    """N / (C N_c) per class (C,), so that every class weighs the same in a pass."""
    classes = len(network.config.labels)
    counts = torch.bincount(labels, minlength=classes)
    return len(labels) / (classes * counts.clamp_min(1))
