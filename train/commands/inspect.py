"""`ifmmin-train inspect`: what a corpus contains, and what is wrong with it."""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np

from ifmmin.runtime.console import log_line, print_table
from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import MODALITIES, Modality

from ..data import fold_count, read_corpus
from ..data.corpus import PARTS, Corpus, Utterance, problems
from ..recipe import load_recipe
from .options import add_recipe, add_roots

NAME, HELP = "inspect", "print what a corpus contains: counts, lengths, missing, class balance"
_SHOWN_PROBLEMS = 20


def add(action: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_recipe(action)
    action.add_argument("--fold", type=int, help="default: all folds")
    add_roots(action)


def run(options: argparse.Namespace) -> None:
    """Print the tables; CorpusError at the end when a fold has problems."""
    recipe = load_recipe(options.recipe, options.overrides, corpus=options.corpus)
    folds = [options.fold] if options.fold else range(1, fold_count(recipe.corpus) + 1)
    found: list[str] = []
    for fold in folds:
        try:
            corpus = read_corpus(
                recipe.corpus, fold=fold, features=options.features, targets=options.targets
            )
        except CorpusError as error:
            found.append(f"fold {fold}: {error}")
            continue
        if fold == folds[0]:
            print_table(*_inputs(corpus), title=f"{corpus.name}: inputs")
        print_table(*_classes(corpus), title=f"{corpus.name}, fold {fold}: utterances")
        found += [f"fold {fold}: {problem}" for problem in problems(corpus)]
    for problem in found[:_SHOWN_PROBLEMS]:
        log_line(f"problem: {problem}")
    if found:
        raise CorpusError(f"{len(found)} problems; mend them before training")


def _inputs(corpus: Corpus) -> tuple[list[str], list[list[str]]]:
    """Per modality: width, type, megabytes, frames, missing utterances."""
    every = [u for part in PARTS for u in corpus.parts[part]]
    headers = ["modality", "dim", "type", "MB", "frames", "median", "seconds", "missing"]
    return headers, [_input_row(corpus, every, m) for m in MODALITIES]


def _input_row(corpus: Corpus, utterances: list[Utterance], modality: Modality) -> list[str]:
    arrays = [u.features[modality] for u in utterances if modality in u.features]
    lengths = np.array([len(x) for x in arrays] or [0])
    rate = corpus.features[modality].frame_rate
    median = float(np.median(lengths))
    return [
        str(modality),
        str(corpus.features[modality].dim),
        "/".join(sorted({str(x.dtype) for x in arrays})) or "-",
        f"{sum(x.nbytes for x in arrays) / 1e6:.1f}",
        f"{lengths.min()}-{lengths.max()}",
        f"{median:g}",
        f"{median / rate:.1f}" if rate else "-",
        f"{len(utterances) - len(arrays)} of {len(utterances)}",
    ]


def _classes(corpus: Corpus) -> tuple[list[str], list[list[str]]]:
    """Per part: utterances, of each class, and lacking each modality."""
    headers = ["part", "utterances", *corpus.labels, *(f"no {m}" for m in MODALITIES)]
    rows = []
    for part in PARTS:
        utterances = corpus.parts[part]
        counts = Counter(u.label for u in utterances)
        shares = [
            f"{counts[c]} ({counts[c] / max(1, len(utterances)):.0%})"
            for c in range(len(corpus.labels))
        ]
        lacking = [str(sum(m not in u.features for u in utterances)) for m in MODALITIES]
        rows.append([part, str(len(utterances)), *shares, *lacking])
    return headers, rows
