"""`ifmmin-train evaluate`: measure a checkpoint under all patterns."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from ifmmin.runtime.console import log_line
from ifmmin.runtime.errors import CheckpointError, IfmminError
from ifmmin.runtime.modality import MODALITIES

from ..checkpoint import Header, load_checkpoint
from ..data import load_corpus
from ..data.corpus import PARTS, Corpus
from ..evaluate import labels_of, measure_scores, require_predictions_file, score, write_predictions
from ..model.network import EmotionNetwork
from ..recipe import Recipe, load_recipe
from .options import add_roots, add_threads, use_threads
from .show import print_metrics

NAME, HELP = "evaluate", "measure a checkpoint under all patterns"


def add(action: argparse.ArgumentParser) -> None:
    """Declare the options."""
    action.add_argument("checkpoint", type=Path)
    action.add_argument(
        "--recipe", help="whose corpus to measure on; default: the checkpoint's own"
    )
    action.add_argument("--fold", type=int, help="default: the checkpoint's own")
    action.add_argument("--part", choices=PARTS, default="test")
    action.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="also write a prediction per utterance and pattern, with the probability of every "
        "class, to FILE.csv or FILE.jsonl",
    )
    add_roots(action)
    add_threads(action)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    use_threads(options.threads)
    if options.save is not None:
        require_predictions_file(options.save)
    network, header = load_checkpoint(options.checkpoint)
    recipe = load_recipe(options.recipe) if options.recipe else _own(header, options.checkpoint)
    fold = options.fold if options.fold is not None else header.training.get("fold", 1)
    corpus = load_corpus(
        recipe.corpus, fold=fold, features=options.features, targets=options.targets
    )
    network.require_corpus(corpus)
    _standardise(network, corpus)
    network.reference_batches = recipe.reference_batches
    utterances = corpus.parts[options.part]
    scores = score(network, utterances)
    if options.save is not None:
        write_predictions(options.save, scores, utterances, corpus.labels)
    possible = corpus.possible if options.part == "test" else None
    print_metrics(measure_scores(scores, labels_of(utterances)), possible)


def _standardise(network: EmotionNetwork, corpus: Corpus) -> None:
    """Do what a checkpoint without statistics leaves to its caller."""
    for modality in MODALITIES:
        if not network.config.features[modality].normalised:
            continue
        if modality in corpus.statistics:
            network.normaliser(modality).take(corpus.statistics[modality])
        else:
            log_line(
                f"the checkpoint wants {modality} standardised and {corpus.name} has no statistics "
                "for it: its values are taken as they are"
            )


def _own(header: Header, path: Path) -> Recipe:
    try:
        return msgspec.convert(header.training["recipe"], Recipe)
    except (KeyError, msgspec.ValidationError, IfmminError) as error:
        raise CheckpointError(
            f"{path} does not say on what it was trained ({error}); give --recipe"
        ) from error
