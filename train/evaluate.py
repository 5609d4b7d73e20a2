"""Answers and figures of merit of a network under every pattern."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifmmin.runtime.atomic import atomic_file
from ifmmin.runtime.modality import ALL_PATTERNS, INCOMPLETE_PATTERNS, Pattern
from ifmmin.train.batch import collate, pattern_mask
from ifmmin.train.corpus import Utterance
from ifmmin.train.metrics import Metrics, measure
from ifmmin.train.network import EmotionNetwork

_BATCH = 64


@dataclass(frozen=True)
class Scores:
    """Logits of the utterances that have at least one modality of the pattern."""

    rows: NDArray[np.int64]
    """Their positions (N,) in what was scored."""
    logits: NDArray[np.floating]
    """(N, C)"""


def score(
    network: EmotionNetwork,
    utterances: Sequence[Utterance],
    patterns: Sequence[Pattern] = ALL_PATTERNS,
) -> dict[Pattern, Scores]:
    """Logits under every pattern. Each modality is encoded once, whatever the patterns."""
    training = network.training
    network.eval()
    with torch.no_grad():
        h, present = _embed(network, utterances)
        missing = network.missing_embeddings()
        scores = {}
        for pattern in patterns:
            keep = present & pattern_mask([pattern])
            rows = keep.any(dim=1).nonzero()[:, 0]
            chosen = torch.where(keep[rows][..., None], h[rows], missing)
            scores[pattern] = Scores(rows.numpy(), network.head(chosen).logits.numpy())
    network.train(training)
    return scores


def _embed(network: EmotionNetwork, utterances: Sequence[Utterance]) -> tuple[Tensor, Tensor]:
    embeddings, present = [], []
    for start in range(0, len(utterances), _BATCH):
        batch = collate(utterances[start : start + _BATCH], network.config)
        embeddings.append(network.embeddings(batch))
        present.append(batch.present)
    return torch.cat(embeddings), torch.cat(present)


def evaluate(
    network: EmotionNetwork,
    utterances: Sequence[Utterance],
    patterns: Sequence[Pattern] = ALL_PATTERNS,
) -> dict[Pattern, Metrics]:
    """Metrics under every pattern."""
    return measure_scores(score(network, utterances, patterns), utterances)


def measure_scores(
    scores: Mapping[Pattern, Scores], utterances: Sequence[Utterance]
) -> dict[Pattern, Metrics]:
    """Metrics of logits that `score` gave for the same utterances."""
    labels = np.array([u.label for u in utterances])
    return {p: measure(found.logits, labels[found.rows]) for p, found in scores.items()}


def write_predictions(
    path: Path,
    scores: Mapping[Pattern, Scores],
    utterances: Sequence[Utterance],
    labels: Sequence[str],
) -> None:
    """Every answer as a CSV row: utterance, pattern, true and predicted label, logits."""
    with atomic_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["utterance", "pattern", "true", "predicted", *labels])
        for pattern, found in scores.items():
            for row, logits in zip(found.rows, found.logits, strict=True):
                utterance = utterances[row]
                answers = [labels[utterance.label], labels[int(logits.argmax())]]
                writer.writerow([utterance.name, pattern, *answers, *logits.tolist()])


def mean_over_incomplete(metrics: dict[Pattern, Metrics], figure: str) -> float:
    """The literature's average of `wa`, `ua` or `f1` over the six incomplete patterns."""
    return float(np.mean([getattr(metrics[p], figure) for p in INCOMPLETE_PATTERNS]))
