"""A training run on disk: checkpoint, resolved recipe, metrics, history, predictions, plots."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.atomic import atomic_directory, require_writable
from ifmmin.runtime.errors import OutputError
from ifmmin.train.checkpoint import save_checkpoint
from ifmmin.train.corpus import Corpus
from ifmmin.train.evaluate import labels_of, write_predictions
from ifmmin.train.health import warn
from ifmmin.train.measure import Report, report
from ifmmin.train.optimise import HistoryRow
from ifmmin.train.plots import draw_run
from ifmmin.train.projection import project, write_projection
from ifmmin.train.recipe import Recipe, dump_recipe
from ifmmin.train.stages import Trained, train

CHECKPOINT_NAME = "model.safetensors"
RECIPE_NAME = "recipe.yaml"
METRICS_NAME = "metrics.json"
HISTORY_NAME = "history.csv"
PREDICTIONS_NAME = "predictions.csv"
PROJECTION_NAME = "projection.csv"
PLOTS_NAME = "plots"


def fit(
    recipe: Recipe,
    corpus: Corpus,
    *,
    fold: int,
    seed: int,
    out: Path,
    overwrite: bool = False,
    plots: bool = True,
) -> Report:
    """Train, calibrate, measure on the test part once, and write the run.

    plots: also draw losses, confusion and projection, a second's work.
    Raises OutputError before training when `out` is in use and `overwrite` does not allow it.
    """
    check_free(out, overwrite=overwrite)
    trained = train(recipe, corpus, seed=seed)
    found = report(trained.network, corpus)
    warn(found.metrics["health"])
    training = {
        "recipe": msgspec.to_builtins(recipe),
        "corpus": corpus.name,
        "fold": fold,
        "seed": seed,
        "prior": class_shares(labels_of(corpus.parts["train"]), len(corpus.labels)),
        "metrics": found.metrics,
    }
    test, labels = corpus.parts["test"], corpus.labels
    points = project(trained.network, found.embedded, test, labels)
    with atomic_directory(out) as part:
        write_run(part, trained, recipe, training)
        write_predictions(part / PREDICTIONS_NAME, found.scores, test, labels)
        if points:
            write_projection(part / PROJECTION_NAME, points)
        if plots:
            (part / PLOTS_NAME).mkdir()
            draw_run(part / PLOTS_NAME, trained.history, found.metrics, points, labels)
    return found


def check_free(out: Path, *, overwrite: bool) -> None:
    """OutputError when something is at `out` already, or when nothing can be put there."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"cannot write {out}: a file is in the way; choose another --out")
    if out.is_dir() and any(out.iterdir()):
        if not (out / CHECKPOINT_NAME).is_file():
            raise OutputError(f"{out} is in use by something else; choose another --out")
        if not overwrite:
            raise OutputError(f"{out} holds a run; choose another --out or add --overwrite")
    require_writable(out)


def class_shares(labels: NDArray[np.int64], classes: int) -> list[float]:
    """How often each class occurs: what is known of an utterance of which nothing is present."""
    counts = np.bincount(labels, minlength=classes)
    return [float(share) for share in counts / counts.sum()]


def write_run(folder: Path, trained: Trained, recipe: Recipe, training: dict[str, Any]) -> None:
    """Write the files of a run into an existing folder."""
    save_checkpoint(folder / CHECKPOINT_NAME, trained.network, training)
    (folder / RECIPE_NAME).write_text(dump_recipe(recipe), encoding="utf-8")
    text = json.dumps(training["metrics"], indent=2) + "\n"
    (folder / METRICS_NAME).write_text(text, encoding="utf-8")
    _write_history(folder / HISTORY_NAME, trained.history)


def _write_history(path: Path, history: list[HistoryRow]) -> None:
    columns = list(dict.fromkeys(name for row in history for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(history)
