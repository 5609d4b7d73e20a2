"""The loop of one stage: updates, validation, and which weights are kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ifmmin.runtime.console import progress
from ifmmin.runtime.errors import RecipeError
from ifmmin.runtime.modality import Pattern
from ifmmin.train.evaluate import embed, measure_scores, score
from ifmmin.train.feed import Feed, Rows, endless_rows
from ifmmin.train.health import active_shares
from ifmmin.train.network import EmotionNetwork
from ifmmin.train.objectives import Objective
from ifmmin.train.schedule import Schedule

HistoryRow = dict[str, float | int]


class Validation:
    """The figure by which epochs are compared: mean over some patterns on the validation part."""

    def __init__(self, feed: Feed, patterns: Sequence[Pattern], figure: str) -> None:
        self._feed = feed
        self._patterns = patterns
        self._figure = figure

    def __call__(self, network: EmotionNetwork) -> dict[str, float]:
        """The figure and the share of active embedding units per modality."""
        embedded = embed(network, self._feed)
        metrics = measure_scores(
            score(network, embedded, self._patterns), self._feed.labels.numpy()
        )
        figures = [getattr(m, self._figure) for m in metrics.values()]
        shares = {f"active_{m}": share for m, share in active_shares(embedded).items()}
        return {"validation": float(np.mean(figures)), **shares}


def run_stage(
    number: int,
    objective: Objective,
    feed: Feed,
    validate: Validation,
    *,
    buckets: int,
    draws: np.random.Generator,
) -> list[HistoryRow]:
    """Optimise the objective's network and leave it at the weights that the schedule keeps."""
    network, stage = objective.network, objective.stage
    network.set_dropout(stage.dropout)
    batches = endless_rows(feed, stage.batch_size, buckets, draws)
    steps = stage.steps_per_epoch or math.ceil(len(feed) / stage.batch_size)
    optimiser = build_optimiser(objective)
    averaged = _averaged(network, stage)
    judged = network if averaged is None else averaged.module
    assert isinstance(judged, EmotionNetwork)
    history: list[HistoryRow] = []
    best, kept = -math.inf, network.state_dict()
    with progress(f"stage {number}", stage.total_epochs) as advance:
        for epoch in range(1, stage.total_epochs + 1):
            network.train()
            terms = _run_epoch(objective, feed, batches, epoch, steps, optimiser, averaged)
            _require_finite(terms, number, epoch)
            found = validate(judged)
            figure = found["validation"]
            if figure > best or stage.keep == "last":
                best, kept = max(best, figure), copy.deepcopy(judged.state_dict())
            rate = stage.rate_at(epoch * steps - 1, steps)
            history.append({"stage": number, "epoch": epoch, "rate": rate, **terms, **found})
            advance(f"loss {sum(terms.values()):.3f}, validation {figure:.3f}, best {best:.3f}")
    network.load_state_dict(kept)
    return history


def build_optimiser(objective: Objective) -> torch.optim.Optimizer:
    """AdamW over all parts of the objective, as its schedule says."""
    stage = objective.stage
    parameters = [p for part in objective.parts().values() for p in part.parameters()]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": stage.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(stage.beta1, stage.beta2))


def _averaged(network: EmotionNetwork, stage: Schedule) -> AveragedModel | None:
    if not stage.average:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(stage.average))  # type: ignore[no-untyped-call]


def _run_epoch(
    objective: Objective,
    feed: Feed,
    batches: Iterator[Rows],
    epoch: int,
    steps: int,
    optimiser: torch.optim.Optimizer,
    averaged: AveragedModel | None,
) -> dict[str, float]:
    """One epoch of updates; returns the mean of every loss term."""
    totals: dict[str, torch.Tensor] = {}
    for step in range((epoch - 1) * steps, epoch * steps):
        for group in optimiser.param_groups:
            group["lr"] = objective.stage.rate_at(step, steps)
        rows = next(batches)
        terms = objective.losses(feed.batch(rows), rows)
        update(objective, optimiser, torch.stack(list(terms.values())).sum())
        if averaged is not None:
            averaged.update_parameters(objective.network)
        for name, value in terms.items():
            totals[name] = totals.get(name, torch.zeros(())) + value.detach()
    return {name: float(total) / steps for name, total in totals.items()}


def update(objective: Objective, optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step down the gradient of `loss`, clipped for every sub-network apart."""
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for part in objective.parts().values():
        nn.utils.clip_grad_norm_(part.parameters(), objective.stage.clip)
    optimiser.step()


def _require_finite(terms: dict[str, float], stage: int, epoch: int) -> None:
    if not all(math.isfinite(value) for value in terms.values()):
        raise RecipeError(
            f"the loss became {terms} in stage {stage}, epoch {epoch}; "
            "lower the learning rate or the weight of the term that grew"
        )
