"""Evaluation of a network under every pattern: answers, metrics, calibration, health, projection.

Temperatures are fitted on validation data after training; health watches for dead embeddings and
collapsed invariant features; the projection shows those features in two dimensions.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from ifmmin.runtime.console import csv_row, csv_rows, json_line, log_line
from ifmmin.runtime.errors import CorpusError, InputError, OutputError
from ifmmin.runtime.files import atomic_file, read_regular, require_writable_file
from ifmmin.runtime.modality import Modality, Pattern, incomplete_patterns
from ifmmin.runtime.prediction import softmax

from .data.corpus import Corpus, Utterance, pattern_mask, shown_name
from .metrics import Metrics, Scale, log_loss, mean_of_measured, measure
from .model.loader import BatchLoader
from .model.network import EmotionNetwork

_RANGE = (0.05, 20.0)
_LEAST_UTTERANCES = 20
"""Fewer give no temperature: it would be noise."""


def calibrate(
    network: EmotionNetwork, embedded: Embedded, labels: NDArray[np.int64]
) -> Mapping[Pattern, float]:
    """Fit the temperatures on held-out utterances with `labels` (N,), and set them.

    A pattern is fitted on the utterances that have all of its modalities; where there are fewer
    than 20, or of one class alone, its temperature stays 1.
    """
    scores = score(network, embedded)
    present = embedded.present.numpy()
    for index, pattern in enumerate(network.config.patterns):
        found = scores[pattern]
        inside = [network.modalities.index(m) for m in pattern]
        whole = present[found.rows][:, inside].all(axis=1)
        answers = labels[found.rows][whole]
        enough = whole.sum() >= _LEAST_UTTERANCES and len(np.unique(answers)) > 1
        network.temperatures[index] = fit_temperature(found.raw[whole], answers) if enough else 1.0
    return temperatures(network)


def temperatures(network: EmotionNetwork) -> dict[Pattern, float]:
    """The network's temperature of every pattern."""
    values: list[float] = network.temperatures.tolist()
    return dict(zip(network.config.patterns, values, strict=True))


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The temperature in [0.05, 20] that makes logits (N, C) say labels (N,) most likely."""
    exact = logits.astype(np.float64)

    def surprise(log_temperature: float) -> float:
        return log_loss(exact / np.exp(log_temperature), labels)

    found: Any = minimize_scalar(surprise, bounds=np.log(_RANGE), method="bounded")
    return float(np.exp(found.x))


ACTIVE_DEVIATION = 1e-3
"""A unit is active when its deviation over utterances is larger."""
LEAST_ACTIVE = 0.1
"""Share of active units below which an embedding is called dead."""
LEAST_DIMENSIONS = 1.1
"""Effective dimensions below which invariant features are called collapsed."""


def active_shares(network: EmotionNetwork, embedded: Embedded) -> dict[Modality, float]:
    """Share of active units of h_m over the utterances that have the modality."""
    shares = {}
    for index, modality in enumerate(network.modalities):
        some = embedded.h[embedded.present[:, index], index]
        if len(some) > 1:
            shares[modality] = _active(some)
    return shares


def examine(network: EmotionNetwork, embedded: Embedded) -> dict[str, Any]:
    """Per modality the share of active units of h_m and H'_m and the effective dimensions of H'_m,
    (sum l)^2 / sum l^2 over the eigenvalues l of its covariance."""
    report: dict[str, Any] = {}
    if network.config.architecture.model == "linear":
        return report  # its embeddings are the statistics themselves
    for index, modality in enumerate(network.modalities):
        some = embedded.h[embedded.present[:, index], index]
        if len(some) < 2:
            continue
        entry = {"active": _active(some)}
        if network.config.architecture.invariant:
            with torch.no_grad():
                invariant = network.invariant(some)
            entry["invariant_active"] = _active(invariant)
            entry["invariant_dimensions"] = effective_dimensions(invariant)
        report[modality.value] = entry
    return report


def warn(report: dict[str, Any]) -> None:
    """Tell the user of dead embeddings and collapsed invariant features."""
    for letter, entry in report.items():
        word = Modality(letter).word
        if entry["active"] < LEAST_ACTIVE:
            log_line(
                f"warning: the {word} embedding is dead: {entry['active']:.0%} of its units react "
                "to the input; lower stage1.cmd, set stage1.cmd_bounded=true or standardise the "
                "features"
            )
        if entry.get("invariant_dimensions", LEAST_DIMENSIONS) < LEAST_DIMENSIONS:
            log_line(
                f"warning: the invariant features of {word} have collapsed to "
                f"{entry['invariant_dimensions']:.1f} effective dimensions; lower stage1.cmd"
            )


def _active(h: Tensor) -> float:
    return float((h.std(dim=0) > ACTIVE_DEVIATION).float().mean())


def effective_dimensions(x: Tensor) -> float:
    """Participation ratio of the covariance of (N, E); 0 for a constant."""
    covariance = torch.cov(x.double().T)
    trace = float(torch.trace(covariance))
    squares = float((covariance**2).sum())
    return trace * trace / squares if squares > 0 else 0.0


@dataclass(frozen=True)
class Point:
    """H' of one modality of one utterance, projected."""

    utterance: str
    modality: str
    label: str
    x: float
    y: float


def project(
    network: EmotionNetwork,
    embedded: Embedded,
    utterances: Sequence[Utterance],
    labels: Sequence[str],
) -> list[Point]:
    """H' of every modality that is present, on their two principal components; empty for a network
    without an invariant encoder."""
    if not network.config.architecture.invariant:
        return []
    with torch.no_grad():
        features = network.invariant(embedded.h)[embedded.present].double().numpy()
    places = principal_components(features).tolist()
    cases: list[list[int]] = embedded.present.nonzero().tolist()
    return [
        Point(one.name, network.modalities[m].value, labels[one.label], x, y)
        for (row, m), (x, y) in zip(cases, places, strict=True)
        for one in [utterances[row]]
    ]


def principal_components(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, E) -> (N, 2). The largest loading of a component is positive, so that signs are fixed."""
    centred = features - features.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    two = np.zeros((2, features.shape[1]))
    two[: min(2, len(directions))] = directions[:2]
    largest = np.abs(two).argmax(axis=1)
    signs = np.where(two[[0, 1], largest] < 0, -1.0, 1.0)
    return np.asarray(centred @ (two * signs[:, None]).T)


def write_projection(path: Path, points: Sequence[Point]) -> None:
    """The points as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(csv_row(["utterance", "modality", "class", "x", "y"]) + "\n")
        for p in points:
            place = float(f"{p.x:.6g}"), float(f"{p.y:.6g}")
            file.write(csv_row([p.utterance, p.modality, p.label, *place]) + "\n")


def read_projection(path: Path) -> list[Point]:
    """The points of a CSV that `write_projection` wrote; empty where there is none."""
    if not path.is_file():
        return []
    return [
        Point(name, modality, label, float(x), float(y))
        for name, modality, label, x, y in read_table(path)[1:]
    ]


def read_table(path: Path) -> list[list[str]]:
    """The rows of a CSV of a run, its head among them. Raises OutputError, OSError, ValueError and
    csv.Error where it is none."""
    text = read_regular(path, OutputError).decode("utf-8")
    return list(csv_rows(io.StringIO(text, newline="")))


@dataclass(frozen=True)
class Report:
    """What is known of a trained network."""

    test: dict[Pattern, Metrics]
    """Calibrated, on the test part."""
    scores: dict[Pattern, Scores]
    """Calibrated logits on the test part."""
    embedded: Embedded
    """The test part after the encoders."""
    metrics: dict[str, Any]
    """All figures, as metrics.json holds them."""


def report(network: EmotionNetwork, corpus: Corpus) -> Report:
    """Calibrate on the validation part, then measure both parts; the test part is scored once."""
    held_out, test = corpus.parts["validation"], corpus.parts["test"]
    validation = embed(network, held_out)
    calibrate(network, validation, labels_of(held_out))
    embedded = embed(network, test)
    scores = score(network, embedded)
    labels = labels_of(test)
    figures = measure_scores(scores, labels, scale_of(corpus, test))
    raw = {pattern: measure(found.raw, labels[found.rows]) for pattern, found in scores.items()}
    metrics: dict[str, Any] = {
        "test": _by_pattern(figures, raw, network),
        "validation": _by_pattern(
            measure_scores(
                score(network, validation), labels_of(held_out), scale_of(corpus, held_out)
            ),
            {},
            network,
        ),
        "health": examine(network, validation),
    }
    if corpus.possible:
        metrics["possible"] = {str(p): value for p, value in corpus.possible.items()}
    return Report(figures, scores, embedded, metrics)


def _by_pattern(
    metrics: Mapping[Pattern, Metrics], raw: Mapping[Pattern, Metrics], network: EmotionNetwork
) -> dict[str, Any]:
    factors = temperatures(network)
    entries: dict[str, Any] = {}
    for pattern, value in metrics.items():
        entry = dataclasses.asdict(value)
        entry |= {**entry.pop("sentiment"), "temperature": factors[pattern]}
        if pattern in raw:
            entry["ece_uncalibrated"] = raw[pattern].ece
            entry["confidence_uncalibrated"] = raw[pattern].confidence
        entries[str(pattern)] = entry
    return entries


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


def embed(network: EmotionNetwork, utterances: Sequence[Utterance] | BatchLoader) -> Embedded:
    """Encode every modality once, in eval mode."""
    loader = utterances if isinstance(utterances, BatchLoader) else BatchLoader(network, utterances)
    training = network.training
    network.eval()
    h, present, absent = [], [], []
    with torch.no_grad():
        for batch in loader.in_order(_BATCH):
            h.append(network.embeddings(batch))
            present.append(batch.present)
            if network.reference_batches:
                absent.append(network.absent_embeddings(batch).expand(len(batch), -1, -1))
        if not absent:
            absent.append(network.missing_embeddings()[None])
    network.train(training)
    found = Embedded(torch.cat(h), torch.cat(present), torch.cat(absent))
    wrong = (~found.h.isfinite().all(dim=2) & found.present).nonzero().tolist()
    if wrong:
        row, index = wrong[0]
        where = f"{shown_name(loader.utterances[row].name)}, modality {network.modalities[index]}"
        raise CorpusError(
            f"{where}: the features are finite, but too large for the network; see that they are "
            "of the scale that it was trained on"
        )
    return found


def score(
    network: EmotionNetwork,
    utterances: Sequence[Utterance] | BatchLoader | Embedded,
    patterns: Sequence[Pattern] | None = None,
) -> dict[Pattern, Scores]:
    """Calibrated logits under every pattern, or some of them."""
    embedded = utterances if isinstance(utterances, Embedded) else embed(network, utterances)
    return {
        pattern: score_left(
            network, embedded, embedded.present & pattern_mask([pattern], network.modalities)
        )
        for pattern in (network.config.patterns if patterns is None else patterns)
    }


def score_left(network: EmotionNetwork, embedded: Embedded, left: Tensor) -> Scores:
    """Calibrated logits of utterances of which `left` (N, M) bool is there, within what they
    have."""
    training = network.training
    network.eval()
    with torch.no_grad():
        chosen = torch.where(left[..., None], embedded.h, embedded.absent)
        rows = left.any(dim=1).nonzero()[:, 0]
        raw = network.head(chosen[rows], left[rows]).logits
        logits = network.calibrated(raw, left[rows])
    network.train(training)
    return Scores(rows.numpy(), logits.numpy(), raw.numpy())


def evaluate(
    network: EmotionNetwork,
    utterances: Sequence[Utterance],
    patterns: Sequence[Pattern] | None = None,
) -> dict[Pattern, Metrics]:
    """Metrics under every pattern, or some of them."""
    return measure_scores(score(network, utterances, patterns), labels_of(utterances))


def labels_of(utterances: Sequence[Utterance]) -> NDArray[np.int64]:
    """The labels (N,)."""
    return np.array([u.label for u in utterances])


def scale_of(corpus: Corpus, utterances: Sequence[Utterance]) -> Scale | None:
    """The scores of the utterances, where the corpus made classes of scores."""
    scores = [u.score for u in utterances if u.score is not None]
    return Scale(corpus.bins, np.array(scores)) if corpus.bins else None


def measure_scores(
    scores: Mapping[Pattern, Scores], labels: NDArray[np.int64], scale: Scale | None = None
) -> dict[Pattern, Metrics]:
    """Metrics of logits that `score` gave for utterances with these labels (N,), and scores."""
    return {
        p: measure(found.logits, labels[found.rows], scale and scale.of(found.rows))
        for p, found in scores.items()
    }


def measure_pooled(
    scores: Mapping[Pattern, Scores], labels: NDArray[np.int64], scale: Scale | None = None
) -> Metrics:
    """Metrics of all answers under the incomplete patterns as one set, which is how papers average:
    an utterance is in it once a pattern. Accuracies are those of the mean where every utterance has
    every modality; F1 is not."""
    some = incomplete_patterns({m for pattern in scores for m in pattern})
    rows = np.concatenate([scores[p].rows for p in some])
    logits = np.concatenate([scores[p].logits for p in some])
    return measure(logits, labels[rows], scale and scale.of(rows))


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
    require_writable_file(path)


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
                file.write(json_line(told) + "\n")
        else:
            file.write(csv_row([*_ANSWER, *labels]) + "\n")
            file.writelines(csv_row([*answer, *shares]) + "\n" for answer, shares in answers)


def mean_over_incomplete(metrics: dict[Pattern, Metrics], figure: str) -> float:
    """The literature's average of a figure over the incomplete patterns, or those of them that have
    an utterance."""
    some = incomplete_patterns({m for pattern in metrics for m in pattern})
    return mean_of_measured([metrics[p].figure(figure) for p in some])
