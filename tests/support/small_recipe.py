"""A recipe so small that a network trains in less than a second."""

from __future__ import annotations

from pathlib import Path

from run_command import Ran, call

from ifmmin.train.cli import main
from ifmmin.train.data import load_corpus
from ifmmin.train.data.corpus import Corpus
from ifmmin.train.recipe import Recipe, load_recipe

_SMALL = (
    "corpus.modalities={a: {dim: 5, frames: [2, 6]}, v: {dim: 6, frames: [2, 6]}, "
    "t: {dim: 7, frames: [3, 9], missing_length: 5}}",
    "corpus.train=48",
    "corpus.validation=40",
    "corpus.test=40",
    "network={embedding: 8, text_channels: 4, blocks: 2, block_sizes: [8, 4]}",
    "stage1={epochs: 2, decay_epochs: 0, batch_size: 16, learning_rate: 3.0e-3, dropout: 0.3, "
    "clip: 0.5, cmd: 0.1}",
    "stage2={epochs: 3, decay_epochs: 0, batch_size: 16, learning_rate: 3.0e-3, dropout: 0.5, "
    "clip: 1.0, invariance: 10.0}",
)
_SECTIONS = {"fusion": ("corpus", "network", "stage1"), "linear": ("corpus",)}


def small_options(model: str = "if-mmin") -> list[str]:
    """The `--set` options of commands; some models have not every section of a recipe."""
    chosen = [text for text in _SMALL if text.startswith(_SECTIONS.get(model, ("",)))]
    return [word for text in chosen for word in ("--set", text)]


TINY = ["--recipe", "synthetic", *small_options()]
"""Options of `fit` and `sweep`."""


def small(*more: str, model: str = "if-mmin") -> tuple[Recipe, Corpus]:
    """The recipe, with overrides, and its corpus."""
    recipe = load_recipe("synthetic", [*small_options(model)[1::2], *more], model=model)
    return recipe, load_corpus(recipe.corpus, fold=1)


def fit_small(out: Path, *more: object, model: str = "if-mmin") -> Ran:
    """Run `ifmmin-train fit`."""
    words = ["fit", "--recipe", "synthetic", *small_options(model), "--model", model]
    return call(main, *words, "--out", out, *more)
