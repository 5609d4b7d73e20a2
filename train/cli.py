"""`ifmmin-train`: fit a network, evaluate a checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ifmmin.runtime.command import command, parser
from ifmmin.runtime.console import print_table, say
from ifmmin.runtime.errors import CheckpointError, InputError
from ifmmin.runtime.modality import Pattern
from ifmmin.train.checkpoint import Header, load_checkpoint
from ifmmin.train.config import MODELS
from ifmmin.train.corpora import load_corpus
from ifmmin.train.corpus import PARTS, Corpus
from ifmmin.train.evaluate import (
    labels_of,
    mean_over_incomplete,
    measure_scores,
    score,
    write_predictions,
)
from ifmmin.train.metrics import Metrics
from ifmmin.train.recipe import Recipe, load_recipe, recipe_names
from ifmmin.train.run import CHECKPOINT_NAME, fit


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.threads is not None:
        import torch

        if options.threads < 1:
            raise InputError(f"--threads must be at least 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    {"fit": _fit, "evaluate": _evaluate}[options.action](options)
    return 0


def _parser() -> argparse.ArgumentParser:
    cli = parser("ifmmin-train", "Train and evaluate IF-MMIN.")
    actions = cli.add_subparsers(dest="action", required=True)

    fit_action = actions.add_parser("fit", help="train a network and write a run")
    fit_action.add_argument(
        "--recipe", required=True, help=f"a YAML file or one of {', '.join(recipe_names())}"
    )
    fit_action.add_argument("--model", choices=MODELS, help="train this model instead")
    fit_action.add_argument(
        "--corpus", metavar="RECIPE", help="take the corpus section of this recipe instead"
    )
    fit_action.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="change a field of the recipe, e.g. --set stage2.epochs=10",
    )  # fmt: skip
    fit_action.add_argument("--fold", type=int, default=1)
    fit_action.add_argument("--seed", type=int, default=0)
    fit_action.add_argument("--out", type=Path, required=True, help="directory of the run")
    fit_action.add_argument("--overwrite", action="store_true", help="replace a run at --out")

    evaluate_action = actions.add_parser("evaluate", help="measure a checkpoint, all patterns")
    evaluate_action.add_argument("checkpoint", type=Path)
    evaluate_action.add_argument("--fold", type=int, help="default: the checkpoint's own")
    evaluate_action.add_argument("--part", choices=PARTS, default="test")
    evaluate_action.add_argument(
        "--predictions", type=Path, help="write every utterance's logits to this CSV"
    )
    for action in (fit_action, evaluate_action):
        action.add_argument("--features", type=Path, help="root of the feature files")
        action.add_argument("--targets", type=Path, help="root of the label files")
        action.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    return cli


def _fit(options: argparse.Namespace) -> None:
    recipe = load_recipe(
        options.recipe, options.overrides, model=options.model, corpus=options.corpus
    )
    corpus = load_corpus(
        recipe.corpus, fold=options.fold, features=options.features, targets=options.targets
    )
    counts = ", ".join(f"{len(corpus.parts[part])} {part}" for part in PARTS)
    say(f"corpus {corpus.name}, fold {options.fold}: {counts}")
    found = fit(
        recipe, corpus, fold=options.fold, seed=options.seed, out=options.out,
        overwrite=options.overwrite,
    )  # fmt: skip
    _print_metrics(found.test, corpus)
    say(f"wrote {options.out / CHECKPOINT_NAME}")


def _evaluate(options: argparse.Namespace) -> None:
    network, header = load_checkpoint(options.checkpoint)
    fold = options.fold if options.fold is not None else header.training.get("fold", 1)
    recipe = _recipe_of(header, options.checkpoint)
    corpus = load_corpus(
        recipe.corpus,
        fold=fold,
        features=options.features,
        targets=options.targets,
    )
    network.reference_batches = recipe.reference_batches
    utterances = corpus.parts[options.part]
    scores = score(network, utterances)
    if options.predictions:
        write_predictions(options.predictions, scores, utterances, corpus.labels)
    metrics = measure_scores(scores, labels_of(utterances))
    _print_metrics(metrics, corpus if options.part == "test" else None)


def _recipe_of(header: Header, path: Path) -> Recipe:
    try:
        return msgspec.convert(header.training["recipe"], Recipe)
    except (KeyError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{path} does not say on what it was trained ({error})") from error


def _print_metrics(metrics: dict[Pattern, Metrics], corpus: Corpus | None) -> None:
    possible = corpus.possible if corpus else {}
    headers = ["pattern", "WA", "UA", "F1", "ECE", *(["possible"] if possible else [])]
    rows = []
    for pattern, value in metrics.items():
        row = [str(pattern), *(f"{x:.3f}" for x in (value.wa, value.ua, value.f1, value.ece))]
        rows.append([*row, *([f"{possible[pattern]:.3f}"] if possible else [])])
    figures = [mean_over_incomplete(metrics, name) for name in ("wa", "ua", "f1", "ece")]
    blank = [""] if possible else []
    rows.append(["mean of six", *(f"{figure:.3f}" for figure in figures), *blank])
    print_table(headers, rows)


if __name__ == "__main__":
    sys.exit(main())
