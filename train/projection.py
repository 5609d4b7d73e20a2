"""The invariant features H' in two dimensions: do modalities mix, do classes part?"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ifmmin.runtime.modality import MODALITIES
from ifmmin.train.corpus import Utterance
from ifmmin.train.evaluate import Embedded
from ifmmin.train.network import EmotionNetwork


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
        Point(utterances[row].name, MODALITIES[m].value, labels[utterances[row].label], x, y)
        for (row, m), (x, y) in zip(cases, places, strict=True)
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
        writer = csv.writer(file)
        writer.writerow(["utterance", "modality", "class", "x", "y"])
        for p in points:
            writer.writerow([p.utterance, p.modality, p.label, f"{p.x:.6g}", f"{p.y:.6g}"])


def read_projection(path: Path) -> list[Point]:
    """The points of a CSV that `write_projection` wrote; empty where there is none."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Point(row["utterance"], row["modality"], row["class"], float(row["x"]), float(row["y"]))
            for row in csv.DictReader(file)
        ]
