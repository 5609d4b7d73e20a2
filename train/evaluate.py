"""Answers and figures of merit of a network under every pattern."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifmmin.runtime.atomic import atomic_file, require_writable
from ifmmin.runtime.errors import InputError, OutputError
from ifmmin.runtime.modality import ALL_PATTERNS, INCOMPLETE_PATTERNS, Pattern
from ifmmin.train.batch import pattern_mask
from ifmmin.train.corpus import Utterance
from ifmmin.train.feed import Feed
from ifmmin.train.metrics import Metrics, measure, softmax
from ifmmin.train.network import EmotionNetwork

_BATCH = 64
_ANSWER = ("utterance", "pattern", "true", "predicted")


@dataclass(frozen=True)
class Scores:
    """Logits of the utterances that have at least one modality of the pattern."""

    rows: NDArray[np.int64]
    """Their positions (N,) in what was scored."""
    logits: NDArray[np.floating]
    """Calibrated, (N, C)."""
    raw: NDArray[np.floating]
    """Before calibration, (N, C)."""


@dataclass(frozen=True)
class Embedded:
    """Utterances after the encoders, whatever the pattern."""

    h: Tensor
    """(N, M, E)"""
    present: Tensor
    """(N, M) bool"""
    absent: Tensor
    """What stands for a missing modality: (1 or N, M, E)."""


def embed(network: EmotionNetwork, utterances: Sequence[Utterance] | Feed) -> Embedded:
    """Encode every modality once, in eval mode."""
    feed = utterances if isinstance(utterances, Feed) else Feed(network, utterances)
    training = network.training
    network.eval()
    h, present, absent = [], [], []
    with torch.no_grad():
        for batch in feed.in_order(_BATCH):
            h.append(network.embeddings(batch))
            present.append(batch.present)
            if network.reference_batches:
                absent.append(network.absent_embeddings(batch).expand(len(batch), -1, -1))
        if not absent:
            absent.append(network.missing_embeddings()[None])
    network.train(training)
    return Embedded(torch.cat(h), torch.cat(present), torch.cat(absent))


def score(
    network: EmotionNetwork,
    utterances: Sequence[Utterance] | Feed | Embedded,
    patterns: Sequence[Pattern] = ALL_PATTERNS,
) -> dict[Pattern, Scores]:
    """Calibrated logits under every pattern."""
    embedded = utterances if isinstance(utterances, Embedded) else embed(network, utterances)
    training = network.training
    network.eval()
    scores = {}
    with torch.no_grad():
        for pattern in patterns:
            keep = embedded.present & pattern_mask([pattern])
            chosen = torch.where(keep[..., None], embedded.h, embedded.absent)
            rows = keep.any(dim=1).nonzero()[:, 0]
            raw = network.head(chosen[rows], keep[rows]).logits
            logits = network.calibrated(raw, keep[rows])
            scores[pattern] = Scores(rows.numpy(), logits.numpy(), raw.numpy())
    network.train(training)
    return scores


def evaluate(
    network: EmotionNetwork,
    utterances: Sequence[Utterance],
    patterns: Sequence[Pattern] = ALL_PATTERNS,
) -> dict[Pattern, Metrics]:
    """Metrics under every pattern."""
    return measure_scores(score(network, utterances, patterns), labels_of(utterances))


def labels_of(utterances: Sequence[Utterance]) -> NDArray[np.int64]:
    """The labels (N,)."""
    return np.array([u.label for u in utterances])


def measure_scores(
    scores: Mapping[Pattern, Scores], labels: NDArray[np.int64]
) -> dict[Pattern, Metrics]:
    """Metrics of logits that `score` gave for utterances with these labels (N,)."""
    return {p: measure(found.logits, labels[found.rows]) for p, found in scores.items()}


def require_predictions_file(path: Path) -> None:
    """Raise unless `write_predictions` can write `path`: before long work, not after it.

    InputError for another suffix than .csv and .jsonl, OutputError for a place that is closed.
    """
    if path.suffix not in (".csv", ".jsonl"):
        raise InputError(
            f"{path}: got {path.suffix or 'no suffix'}, wanted .csv or .jsonl for predictions; "
            "choose a name that ends so"
        )
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory; choose a file name")
    require_writable(path)


def write_predictions(
    path: Path,
    scores: Mapping[Pattern, Scores],
    utterances: Sequence[Utterance],
    labels: Sequence[str],
) -> None:
    """Write each answer of `scores` as a row of CSV, or as a line of JSON where `path` is .jsonl.

    utterances: those that `score` was given. An answer has the utterance's name, the pattern, true
    and predicted label, and the calibrated probability per class. Raises OutputError.
    """
    answers = (
        ((one.name, str(pattern), labels[one.label], labels[int(logits.argmax())]), shares.tolist())
        for pattern, found in scores.items()
        for row, logits, shares in zip(found.rows, found.logits, softmax(found.logits), strict=True)
        for one in [utterances[row]]
    )
    with atomic_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".jsonl":
            for answer, shares in answers:
                content = dict(zip(_ANSWER, answer, strict=True))
                told = {**content, "probabilities": dict(zip(labels, shares, strict=True))}
                file.write(json.dumps(told, ensure_ascii=False) + "\n")
        else:
            table = csv.writer(file)
            table.writerow([*_ANSWER, *labels])
            table.writerows([*answer, *shares] for answer, shares in answers)


def mean_over_incomplete(metrics: dict[Pattern, Metrics], figure: str) -> float:
    """The literature's average of `wa`, `ua` or `f1` over the six incomplete patterns."""
    return float(np.mean([getattr(metrics[p], figure) for p in INCOMPLETE_PATTERNS]))
