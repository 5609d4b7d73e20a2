"""A training run on disk: model.safetensors, recipe.yaml, metrics.json, history.csv."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec

from ifmmin.runtime.atomic import atomic_directory, require_writable
from ifmmin.runtime.errors import OutputError
from ifmmin.runtime.modality import Pattern
from ifmmin.train.checkpoint import save_checkpoint
from ifmmin.train.corpus import Corpus
from ifmmin.train.evaluate import evaluate
from ifmmin.train.metrics import Metrics
from ifmmin.train.recipe import Recipe, dump_recipe
from ifmmin.train.stages import HistoryRow, Trained, train

CHECKPOINT_NAME = "model.safetensors"
RECIPE_NAME = "recipe.yaml"
METRICS_NAME = "metrics.json"
HISTORY_NAME = "history.csv"


def fit(
    recipe: Recipe, corpus: Corpus, *, fold: int, seed: int, out: Path, overwrite: bool = False
) -> dict[Pattern, Metrics]:
    """Train, measure on the test part once, and write the run; returns the test metrics.

    Raises OutputError before training when `out` is in use and `overwrite` does not allow it.
    """
    check_free(out, overwrite=overwrite)
    trained = train(recipe, corpus, seed=seed)
    test = evaluate(trained.network, corpus.parts["test"])
    metrics: dict[str, Any] = {
        "test": _by_pattern(test),
        "validation": _by_pattern(evaluate(trained.network, corpus.parts["validation"])),
    }
    if corpus.possible:
        metrics["possible"] = {str(p): value for p, value in corpus.possible.items()}
    training = {
        "recipe": msgspec.to_builtins(recipe),
        "corpus": corpus.name,
        "fold": fold,
        "seed": seed,
        "metrics": metrics,
    }
    with atomic_directory(out) as part:
        write_run(part, trained, recipe, training)
    return test


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


def write_run(folder: Path, trained: Trained, recipe: Recipe, training: dict[str, Any]) -> None:
    """Write the files of a run into an existing folder."""
    save_checkpoint(folder / CHECKPOINT_NAME, trained.network, training)
    (folder / RECIPE_NAME).write_text(dump_recipe(recipe), encoding="utf-8")
    text = json.dumps(training["metrics"], indent=2) + "\n"
    (folder / METRICS_NAME).write_text(text, encoding="utf-8")
    _write_history(folder / HISTORY_NAME, trained.history)


def _by_pattern(metrics: dict[Pattern, Metrics]) -> dict[str, Any]:
    return {str(pattern): dataclasses.asdict(value) for pattern, value in metrics.items()}


def _write_history(path: Path, history: list[HistoryRow]) -> None:
    columns = list(dict.fromkeys(name for row in history for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(history)
