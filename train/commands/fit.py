"""`ifmmin-train fit`: train a network and write a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from ifmmin.runtime.console import log_line

from ..config import MODELS
from ..data import load_corpus
from ..data.corpus import PARTS
from ..recipe import load_recipe
from ..trainer import CHECKPOINT_NAME, fit
from .options import add_recipe, add_roots, add_threads, use_threads
from .show import print_metrics

NAME, HELP = "fit", "train a network and write a run"


def add(action: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_recipe(action)
    action.add_argument("--model", choices=MODELS, help="train this model instead")
    action.add_argument("--fold", type=int, default=1)
    action.add_argument("--seed", type=int, default=0)
    action.add_argument("--out", type=Path, required=True, help="directory of the run")
    action.add_argument("--overwrite", action="store_true", help="replace a run at --out")
    add_roots(action)
    add_threads(action)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    use_threads(options.threads)
    recipe = load_recipe(
        options.recipe, options.overrides, model=options.model, corpus=options.corpus
    )
    corpus = load_corpus(
        recipe.corpus, fold=options.fold, features=options.features, targets=options.targets
    )
    counts = ", ".join(f"{len(corpus.parts[part])} {part}" for part in PARTS)
    log_line(f"corpus {corpus.name}, fold {options.fold}: {counts}")
    found = fit(
        recipe, corpus, fold=options.fold, seed=options.seed, out=options.out,
        overwrite=options.overwrite,
    )  # fmt: skip
    print_metrics(found.test, corpus.possible)
    log_line(f"wrote {options.out / CHECKPOINT_NAME}")
