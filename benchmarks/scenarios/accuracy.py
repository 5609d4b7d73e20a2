"""Accuracy of every configuration that is timed, on the test part of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ifmmin.runtime.errors import BundleError, CorpusError, IfmminError
from ifmmin.runtime.modality import Pattern
from ifmmin.runtime.predictor import Predictor

from ..record import Accuracy
from .bench import Bench
from .contenders import RunConfig, run_configs

if TYPE_CHECKING:
    from ifmmin.train.data.corpus import Corpus, Utterance


def measure_accuracies(bench: Bench) -> dict[tuple[str, str, str], Accuracy]:
    """Accuracy by pattern, backend and precision, one utterance at a time, by the runtime.

    Only utterances count that have all of a pattern; the first number of threads is taken, which
    does not matter to an answer. Empty where no fold was named, and where the trainer, which reads
    corpora, cannot be imported; that is noted. Raises CorpusError or BundleError for a corpus that
    does not fit the bundle.
    """
    if bench.plan.fold is None:
        return {}
    try:
        corpus = _load(bench, bench.plan.fold)
    except ImportError as error:
        reason = f"{error}; corpora are read by the trainer: run pip install 'ifmmin[train]'"
        bench.refuse("accuracy", bench.plan.threads[0], reason)
        return {}
    test, found = corpus.parts["test"], {}
    for config in run_configs(bench.plan):
        if config.threads != bench.plan.threads[0]:
            continue
        predictor = bench.predictor(config)
        if predictor is None:
            continue
        bench.log(f"accuracy of {config.backend} {config.precision} on {len(test)} utterances")
        for pattern in bench.patterns:
            measured = _measure(bench, config, predictor, pattern, test)
            if measured is not None:
                found[str(pattern), config.backend, config.precision] = measured
    return found


def _measure(
    bench: Bench,
    config: RunConfig,
    predictor: Predictor,
    pattern: Pattern,
    test: Sequence[Utterance],
) -> Accuracy | None:
    """None where nothing has all of the pattern, and where the way cannot answer it."""
    from ifmmin.train.metrics import measure

    complete = [u for u in test if all(m in u.features for m in pattern)]
    if not complete:
        return None
    try:
        rows = [
            predictor.predict({m: np.asarray(u.features[m], np.float32) for m in pattern}).logits
            for u in complete
        ]
    except IfmminError as error:
        bench.refuse(
            f"accuracy of {config.backend} {config.precision} {pattern}", config.threads, error
        )
        return None
    metrics = measure(np.stack(rows), np.array([u.label for u in complete]))
    return Accuracy(wa=metrics.wa, ua=metrics.ua, ece=metrics.ece, count=len(complete))


def _load(bench: Bench, fold: int) -> Corpus:
    """CorpusError unless the corpus has the bundle's classes and features."""
    from ifmmin.train.data import load_corpus
    from ifmmin.train.recipe import Recipe

    plan, training = bench.plan, bench.bundle.manifest.checkpoint.training
    try:
        recipe = msgspec.convert(training["recipe"], Recipe)
    except (KeyError, msgspec.ValidationError, IfmminError) as error:
        raise BundleError(
            f"the bundle {bench.bundle.directory} does not say how its corpus is laid out "
            f"({error}); it cannot be evaluated on one"
        ) from error
    trained = training.get("fold")
    if trained not in (None, fold):
        bench.log(
            f"accuracy is of fold {fold}, the network was trained on fold {trained}: it may have "
            "seen the test part"
        )
    manifest = bench.bundle.manifest
    corpus = load_corpus(
        recipe.corpus, fold=fold, features=plan.features, targets=plan.targets,
        modalities=list(manifest.modalities),
    )  # fmt: skip
    if corpus.labels != manifest.labels:
        raise CorpusError(
            f"the bundle answers {', '.join(manifest.labels)}, corpus {corpus.name} has "
            f"{', '.join(corpus.labels)}; they must be the same in the same order"
        )
    for modality, spec in manifest.modalities.items():
        ours, theirs = spec.dim, corpus.features[modality].dim
        if ours != theirs:
            raise CorpusError(
                f"the bundle takes {ours} features of {modality}, corpus {corpus.name} has "
                f"{theirs}; give the features that it was trained on"
            )
        if spec.normalised and modality in corpus.statistics:
            raise CorpusError(
                f"the graphs want {modality} standardised by their caller and corpus "
                f"{corpus.name} is not; export from a checkpoint that holds the statistics"
            )
    return corpus
