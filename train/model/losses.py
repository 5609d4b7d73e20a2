"""Losses of both stages, term by term on a batch, and the frozen stage-1 teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifmmin.runtime.modality import Modality

from ..config import Schedule, Stage2
from ..data.corpus import Batch, pattern_mask
from ..missing import SlotDraws, slots_left
from .loader import BatchLoader, Rows
from .models import ContrastiveNetwork, FusionNetwork, fusion_flat
from .network import EmotionNetwork, Imagination, Output, initialise

CMD_MOMENTS = 5


def central_moment_discrepancy(x: Tensor, y: Tensor, moments: int = CMD_MOMENTS) -> Tensor:
    """CMD of two samples (N, E), (N', E), a scalar: sum over k of || c_k(x) - c_k(y) ||_2.

    c_1 is the mean, c_k the k-th central moment (Zellinger et al. 2017, without the 1 / (b - a)^k
    factor, as IF-MMIN uses it). The gradient is finite everywhere: zero where a norm is zero.
    """
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    x_central, y_central = x - x_mean, y - y_mean
    total: Tensor = torch.linalg.vector_norm(x_mean - y_mean)
    for k in range(2, moments + 1):
        difference = x_central.pow(k).mean(dim=0) - y_central.pow(k).mean(dim=0)
        total = total + torch.linalg.vector_norm(difference)
    return total


def bounded(invariant: Tensor, present: Tensor) -> Tensor:
    """H' (B, M, E) standardised over batch and present modalities, then squashed to (-1, 1).

    The moments of unbounded features grow without limit, and the cheapest way to shrink them is to
    shut an encoder; here scale is no way out, and every moment is at most 2.
    """
    seen = invariant[present]
    centred = invariant - seen.mean(dim=0)
    deviation = (seen - seen.mean(dim=0)).pow(2).mean(dim=0).add(1e-6).sqrt()
    return torch.tanh(centred / deviation)


def invariance_discrepancy(invariant: Tensor, present: Tensor) -> Tensor:
    """Mean CMD over the pairs of modalities of H' (B, M, E), where both are present (B, M).

    A pair that fewer than two utterances show counts as zero, and so does a single modality.
    """
    pairs = []
    for i, j in combinations(range(invariant.shape[1]), 2):
        rows = present[:, i] & present[:, j]
        if int(rows.sum()) < 2:
            pairs.append(invariant.new_zeros(()))
        else:
            pairs.append(central_moment_discrepancy(invariant[rows, i], invariant[rows, j]))
    return torch.stack(pairs).mean() if pairs else invariant.new_zeros(())


CONTRAST_WEIGHTS: Mapping[frozenset[Modality], float] = {
    frozenset((Modality.T, Modality.V)): 0.25,
    frozenset((Modality.T, Modality.A)): 0.25,
    frozenset((Modality.V, Modality.A)): 0.5,
}
"""Of pairs of modalities in CIF-MMIN's first stage."""


def contrast(x: Tensor, y: Tensor) -> Tensor:
    """How far apart (N, E), (N, E) of the same N utterances are, beside those of others: a scalar.

    With unit vectors u_i, v_j and s_ij = e u_i . v_j: the mean over i of -log(exp(s_ii) / (1e-10 +
    sum over j != i of exp(s_ij)) + 1e-20), and the same with x and y exchanged, halved (CIF-MMIN's
    code: an utterance's own pair is not below the line, and e is the temperature's inverse).
    """
    scores = math.e * F.normalize(x, dim=1, eps=1e-12) @ F.normalize(y, dim=1, eps=1e-12).T
    own = scores.diagonal().exp()
    others = scores.exp() * (1 - torch.eye(len(scores), dtype=scores.dtype, device=scores.device))
    ways = [-(own / (1e-10 + others.sum(dim=d)) + 1e-20).log().mean() for d in (0, 1)]
    return torch.stack(ways).mean()


def imagination_target(full: Tensor, absent: Tensor, keep: Tensor) -> Tensor:
    """What imagination should give (B, M, E): the teacher's encoding of the complement input.

    full: teacher embeddings (B, M, E) of the whole utterance; absent: its missing embeddings
    (M, E); keep: (B, M) bool, what the student was given. Where the student lacks a modality the
    target is its true embedding, elsewhere that of an absent one.
    """
    return torch.where(keep[..., None], absent, full)


def missing_error(imagined: Tensor, full: Tensor, missing: Tensor) -> Tensor:
    """MSE of imagined against true embeddings (B, M, E) over what is missing (B, M), else zero."""
    squares = (imagined - full).pow(2).mean(dim=2)
    return (squares * missing).sum() / missing.sum().clamp_min(1)


_AT_ONCE = 64


class TeacherOutput(NamedTuple):
    """What the teacher sees in a batch, all modalities present that the utterances have."""

    full: Tensor
    """Embeddings (B, M, E)."""
    absent: Tensor
    """Its embeddings of missing modalities (M, E)."""
    invariant: Tensor | None
    """H' (B, M, E)."""


class Teacher:
    """Looks at every training utterance once: it is frozen, and an answer has no batch mates.

    With reference batches an answer does depend on them, so it looks at every batch anew.
    """

    def __init__(self, network: FusionNetwork | ContrastiveNetwork, loader: BatchLoader) -> None:
        self._network = network.eval().requires_grad_(False)
        self._seen = None if network.reference_batches else self._see_all(loader)

    def see(self, batch: Batch, rows: Rows) -> TeacherOutput:
        """Its view of a batch that holds the utterances `rows` of its loader."""
        if self._seen is None:
            return self._look(batch)
        index = torch.from_numpy(rows)
        seen = self._seen
        invariant = None if seen.invariant is None else seen.invariant[index]
        return TeacherOutput(seen.full[index], seen.absent, invariant)

    def _look(self, batch: Batch) -> TeacherOutput:
        with torch.no_grad():
            network = self._network
            full = network.embeddings(batch)
            output = network.head(full, batch.present)
            absent = network.absent_embeddings(batch)
        return TeacherOutput(network.specific(full), network.specific(absent), output.invariant)

    def _see_all(self, loader: BatchLoader) -> TeacherOutput:
        views = [self._look(batch) for batch in loader.in_order(_AT_ONCE)]
        invariants = [view.invariant for view in views if view.invariant is not None]
        return TeacherOutput(
            torch.cat([view.full for view in views]),
            views[0].absent,
            torch.cat(invariants) if invariants else None,
        )


Terms = dict[str, Tensor]
"""Weighted terms of a loss, scalars."""


class ForwardPass(NamedTuple):
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
        self,
        network: EmotionNetwork,
        stage: Schedule,
        loader: BatchLoader,
        draws: np.random.Generator,
    ) -> None:
        self.network = network
        self.stage = stage
        self._draws = draws
        config = network.config
        patterns = config.incomplete if stage.patterns == "incomplete" else config.patterns
        self._patterns = pattern_mask(patterns, config.modalities)
        self._rates = stage.missing_rates
        self._weight = class_weights(loader.labels, network) if stage.class_balance else None

    def parts(self) -> dict[str, nn.Module]:
        """What is trained: sub-networks whose gradients are clipped apart."""
        return self.network.parts()

    def losses(self, batch: Batch, rows: Rows) -> Terms:
        """The weighted terms on a batch of the loader's utterances `rows`."""
        return self.own_terms(self.see(batch))

    def see(self, batch: Batch) -> ForwardPass:
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
            if self._rates:
                keep = draw_slots(present, self._rates, self._draws)
            elif self.stage.patterns != "full":
                keep = draw_patterns(present, self._patterns, self._draws)
            h = self.network.embeddings(batch.masked(keep))
        return ForwardPass(self.network.head(h, keep), h, batch.labels[cases], keep, cases)

    def own_terms(self, seen: ForwardPass) -> Terms:
        """The terms that need no teacher."""
        stage, output = self.stage, seen.output
        terms = {"cross_entropy": F.cross_entropy(output.logits, seen.labels, self._weight)}
        if stage.cmd and output.invariant is not None:
            invariant = output.invariant
            if stage.cmd_bounded:
                invariant = bounded(invariant, seen.present)
            terms["cmd"] = stage.cmd * invariance_discrepancy(invariant, seen.present)
        return terms


class ContrastiveObjective(Objective):
    """CIF-MMIN's stage 1: cross-entropy, and contrast between the modalities' H'.

    Each H' goes through a projection of its modality, which the loss alone needs.
    """

    def __init__(
        self,
        network: EmotionNetwork,
        stage: Schedule,
        loader: BatchLoader,
        draws: np.random.Generator,
    ) -> None:
        super().__init__(network, stage, loader, draws)
        width = network.config.architecture.embedding
        self.projections = nn.ModuleDict({m.value: _projection(width) for m in network.modalities})
        """Per letter of a modality."""

    def parts(self) -> dict[str, nn.Module]:
        """The network's parts and the projections."""
        return super().parts() | {f"projection_{m}": p for m, p in self.projections.items()}

    def own_terms(self, seen: ForwardPass) -> Terms:
        """Cross-entropy, and the contrast of every pair of modalities that two utterances have."""
        invariant, modalities = seen.output.invariant, self.network.modalities
        assert invariant is not None
        terms = {"cross_entropy": F.cross_entropy(seen.output.logits, seen.labels, self._weight)}
        for i, j in combinations(range(len(modalities)), 2):
            rows = seen.present[:, i] & seen.present[:, j]
            if int(rows.sum()) < 2:
                continue
            pair = modalities[i], modalities[j]
            x, y = (
                self.projections[m.value](invariant[rows, k])
                for k, m in zip((i, j), pair, strict=True)
            )
            weight = CONTRAST_WEIGHTS[frozenset(pair)]
            terms[f"contrast_{pair[0]}_{pair[1]}"] = weight * contrast(x, y)
        return terms


def _projection(width: int) -> nn.Module:
    projection = nn.Sequential(
        nn.Linear(width, width), nn.LeakyReLU(), nn.LayerNorm(width), nn.Linear(width, width),
        nn.LeakyReLU(),
    )  # fmt: skip
    initialise(projection)
    nn.init.ones_(projection[2].weight)  # type: ignore[arg-type]
    return projection


class TaughtObjective(Objective):
    """Stage 2: also imagination, invariance and cycle, after a teacher."""

    stage: Stage2

    def __init__(
        self,
        network: EmotionNetwork,
        stage: Stage2,
        loader: BatchLoader,
        draws: np.random.Generator,
        teacher: Teacher,
    ) -> None:
        super().__init__(network, stage, loader, draws)
        self._teacher = teacher
        self.cycle: Imagination | None = None
        """Imagines what was given from what was imagined, as MMIN does."""
        if network.config.architecture.model == "mmin" and stage.cycle:
            self.cycle = self._build_cycle(stage.cycle_shared)

    def parts(self) -> dict[str, nn.Module]:
        """The network's parts and the second imagination module."""
        parts = super().parts()
        own = self.cycle is not None and self.cycle is not parts["imagination"]
        return parts | {"cycle": self.cycle} if own and self.cycle is not None else parts

    def _build_cycle(self, shared: bool) -> Imagination:
        if shared:
            imagination: Imagination = self.network.get_submodule("imagination")  # type: ignore[assignment]
            return imagination
        # Needed by the loss alone, so it is no part of the network and of its checkpoint.
        config = self.network.config
        made = Imagination(config.architecture, "residual", len(config.modalities))
        initialise(made)
        return made

    def losses(self, batch: Batch, rows: Rows) -> Terms:
        """The weighted terms on a batch of the loader's utterances `rows`."""
        seen = self.see(batch)
        view = self._teacher.see(batch, rows)
        return self.own_terms(seen) | self._taught_terms(seen, view)

    def _taught_terms(self, seen: ForwardPass, view: TeacherOutput) -> Terms:
        stage, output = self.stage, seen.output
        assert output.imagined is not None
        full = view.full[seen.cases]
        terms: Terms = {}
        if stage.imagination:
            terms["imagination"] = stage.imagination * self._imagination(seen, full, view.absent)
        if stage.invariance and output.invariant is not None and view.invariant is not None:
            error = F.mse_loss(output.invariant, view.invariant[seen.cases])
            terms["invariance"] = stage.invariance * error
        if self.cycle is not None:
            modalities = self.network.modalities
            again = self.cycle(fusion_flat(output.imagined, modalities), None)[1]
            given = fusion_flat(seen.h, modalities).detach()
            terms["cycle"] = stage.cycle * F.mse_loss(again, given)
        return terms

    def _imagination(self, seen: ForwardPass, full: Tensor, absent: Tensor) -> Tensor:
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


def draw_slots(present: Tensor, rates: Sequence[float], draws: np.random.Generator) -> Tensor:
    """What is left of what is `present` (B, M) at one of the missing rates."""
    rate = rates[int(draws.integers(len(rates)))]
    slots = SlotDraws.fresh(tuple(present.shape), draws)
    return torch.from_numpy(slots_left(present.numpy(), rate, slots))


def class_weights(labels: Tensor, network: EmotionNetwork) -> Tensor:
    """N / (C N_c) per class (C,), so that every class weighs the same in a pass."""
    classes = len(network.config.labels)
    counts = torch.bincount(labels, minlength=classes)
    return len(labels) / (classes * counts.clamp_min(1))
