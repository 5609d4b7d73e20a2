"""Two-stage training: a full-modality teacher, then the network that imagines what is missing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifmmin.runtime.console import progress
from ifmmin.runtime.errors import RecipeError
from ifmmin.runtime.modality import ALL_PATTERNS, INCOMPLETE_PATTERNS
from ifmmin.train.batch import Batch, collate, pattern_mask
from ifmmin.train.config import ModelConfig
from ifmmin.train.corpus import Corpus, Utterance
from ifmmin.train.evaluate import evaluate, mean_over_incomplete
from ifmmin.train.losses import bounded, imagination_target, invariance_discrepancy
from ifmmin.train.network import EmotionNetwork, FusionNetwork, ImaginationNetwork
from ifmmin.train.recipe import Recipe, Schedule, Stage1, Stage2

Losses = Callable[[Batch], dict[str, Tensor]]
"""The weighted terms of a stage's loss on a batch."""
HistoryRow = dict[str, float | int]

_FULL = ALL_PATTERNS[-1]


@dataclass(frozen=True)
class Trained:
    """What training gives."""

    network: EmotionNetwork
    history: list[HistoryRow]
    """A row per epoch: stage, epoch, learning rate, mean of every loss term, validation figure."""


def train(recipe: Recipe, corpus: Corpus, *, seed: int) -> Trained:
    """Train the recipe's network on a corpus. The same seed and thread count give the same bits."""
    torch.manual_seed(seed)
    draws = np.random.default_rng(seed)
    config = ModelConfig(
        labels=corpus.labels, features=corpus.features, architecture=recipe.network
    )
    teacher = FusionNetwork(_with_model(config, "fusion"))
    set_statistics(teacher, corpus)
    history = _run_stage(1, teacher, recipe.stage1, corpus, _Full(teacher, recipe), draws)
    if recipe.stage2 is None or config.architecture.model == "fusion":
        return Trained(teacher.eval(), history)
    student = ImaginationNetwork(config)
    for part in ("normalisers", "encoders", "invariant"):
        student.get_submodule(part).load_state_dict(teacher.get_submodule(part).state_dict())
    missing = _Missing(student, teacher, recipe, recipe.stage2, draws)
    history += _run_stage(2, student, recipe.stage2, corpus, missing, draws)
    return Trained(student.eval(), history)


def _with_model(config: ModelConfig, model: str) -> ModelConfig:
    architecture = msgspec.structs.replace(config.architecture, model=model)
    return msgspec.structs.replace(config, architecture=architecture)


def set_statistics(network: EmotionNetwork, corpus: Corpus) -> None:
    """Give the network the corpus's standardisation."""
    for modality, statistics in corpus.statistics.items():
        normaliser = network.normaliser(modality)
        normaliser.mean.copy_(torch.from_numpy(statistics.mean))
        normaliser.std.copy_(torch.from_numpy(statistics.std))


class _Full:
    """Stage 1: everything present, invariance by CMD."""

    def __init__(self, network: FusionNetwork, recipe: Recipe) -> None:
        self._network = network
        self._stage: Stage1 = recipe.stage1
        self._figure = recipe.select

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        output = self._network(batch)
        terms = {"cross_entropy": F.cross_entropy(output.logits, batch.labels)}
        if self._stage.cmd:
            invariant = bounded(output.invariant) if self._stage.cmd_bounded else output.invariant
            terms["cmd"] = self._stage.cmd * invariance_discrepancy(invariant)
        return terms

    def validate(self, utterances: Sequence[Utterance]) -> float:
        metrics = evaluate(self._network, utterances, [_FULL])
        return float(getattr(metrics[_FULL], self._figure))


class _Missing:
    """Stage 2: a pattern is drawn for every utterance; the teacher sees all of it."""

    def __init__(
        self,
        network: ImaginationNetwork,
        teacher: FusionNetwork,
        recipe: Recipe,
        stage: Stage2,
        draws: np.random.Generator,
    ) -> None:
        self._network = network
        self._teacher = teacher.eval().requires_grad_(False)
        self._stage = stage
        self._figure = recipe.select
        self._patterns = pattern_mask(
            ALL_PATTERNS if stage.patterns == "all" else INCOMPLETE_PATTERNS
        )
        self._draws = draws

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        keep = draw_patterns(batch.present, self._patterns, self._draws)
        output = self._network(batch.masked(keep))
        assert output.imagined is not None
        with torch.no_grad():
            full = self._teacher.embeddings(batch)
            target = imagination_target(full, self._teacher.missing_embeddings(), keep)
            invariant = self._teacher.invariant(full)
        return {
            "cross_entropy": F.cross_entropy(output.logits, batch.labels),
            "imagination": self._stage.imagination * F.mse_loss(output.imagined, target),
            "invariance": self._stage.invariance * F.mse_loss(output.invariant, invariant),
        }

    def validate(self, utterances: Sequence[Utterance]) -> float:
        return mean_over_incomplete(evaluate(self._network, utterances), self._figure)


def draw_patterns(present: Tensor, patterns: Tensor, draws: np.random.Generator) -> Tensor:
    """A pattern of `patterns` (P, M) for each utterance, within what is `present` (B, M).

    Where the drawn pattern would leave nothing, the utterance keeps what it has.
    """
    keep = patterns[torch.from_numpy(draws.integers(len(patterns), size=len(present)))] & present
    return torch.where(keep.any(dim=1, keepdim=True), keep, present)


def _run_stage(
    number: int,
    network: EmotionNetwork,
    schedule: Schedule,
    corpus: Corpus,
    objective: _Full | _Missing,
    draws: np.random.Generator,
) -> list[HistoryRow]:
    """Optimise; leave the network at its best validation epoch."""
    network.set_dropout(schedule.dropout)
    optimiser = torch.optim.AdamW(
        network.parameters(), betas=(schedule.beta1, 0.999), weight_decay=schedule.weight_decay
    )
    batches = _batches(corpus.parts["train"], network.config, schedule, draws)
    history: list[HistoryRow] = []
    best, best_state = -math.inf, network.state_dict()
    with progress(f"stage {number}", schedule.total_epochs) as advance:
        for epoch in range(1, schedule.total_epochs + 1):
            rate = schedule.rate_at(epoch)
            for group in optimiser.param_groups:
                group["lr"] = rate
            network.train()
            terms = _run_epoch(network, schedule, next(batches), objective.losses, optimiser)
            if not all(math.isfinite(value) for value in terms.values()):
                raise RecipeError(
                    f"the loss became {terms} in stage {number}, epoch {epoch}; "
                    "lower the learning rate or the weight of the term that grew"
                )
            figure = objective.validate(corpus.parts["validation"])
            if figure > best:
                best, best_state = figure, copy.deepcopy(network.state_dict())
            history.append(
                {"stage": number, "epoch": epoch, "rate": rate, **terms, "validation": figure}
            )
            loss = sum(terms.values())
            advance(f"loss {loss:.3f}, validation {figure:.3f}, best {best:.3f}")
    network.load_state_dict(best_state)
    return history


def _run_epoch(
    network: EmotionNetwork,
    schedule: Schedule,
    batches: Sequence[Sequence[Utterance]],
    losses: Losses,
    optimiser: torch.optim.Optimizer,
) -> dict[str, float]:
    """One epoch of updates; returns the mean of every loss term."""
    totals: dict[str, float] = {}
    for utterances in batches:
        terms = losses(collate(utterances, network.config))
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        for part in network.parts().values():
            nn.utils.clip_grad_norm_(part.parameters(), schedule.clip)
        optimiser.step()
        for name, value in terms.items():
            totals[name] = totals.get(name, 0.0) + float(value.detach())
    return {name: total / len(batches) for name, total in totals.items()}


def _batches(
    utterances: Sequence[Utterance],
    config: ModelConfig,
    schedule: Schedule,
    draws: np.random.Generator,
) -> Iterator[list[list[Utterance]]]:
    """Endless epochs of shuffled batches; passes over the data run on across epochs of steps."""
    size = min(schedule.batch_size, len(utterances))
    per_pass = len(utterances) // size

    def endless() -> Iterator[list[Utterance]]:
        while True:
            order = draws.permutation(len(utterances))
            for start in range(0, per_pass * size, size):
                yield [utterances[i] for i in order[start : start + size]]

    source = endless()
    while True:
        yield [next(source) for _ in range(schedule.steps_per_epoch or per_pass)]
