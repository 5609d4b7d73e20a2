"""The linear specialist equals scikit-learn on statistics computed apart."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.preprocessing import StandardScaler

from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Pattern
from ifmmin.train.corpora import load_corpus
from ifmmin.train.corpus import Corpus, Utterance
from ifmmin.train.evaluate import score
from ifmmin.train.recipe import load_recipe
from ifmmin.train.stages import train

SMALL = (
    "corpus.modalities={a: {dim: 5, frames: [2, 6]}, v: {dim: 6, frames: [2, 6]}, "
    "t: {dim: 7, frames: [3, 9], missing_length: 5}}",
    "corpus.train=90",
    "corpus.validation=40",
    "corpus.test=50",
)


def _pooled(utterances: list[Utterance], pattern: Pattern) -> np.ndarray:
    rows = []
    for utterance in utterances:
        frames = [utterance.features[m].astype(float) for m in pattern]
        rows.append(np.concatenate([np.append(x.mean(0), x.std(0)) for x in frames]))
    return np.array(rows)


@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_equal_to_scikit_learn(pattern: Pattern) -> None:
    recipe = load_recipe("synthetic", SMALL, model="linear")
    corpus = load_corpus(recipe.corpus, fold=1)
    network = train(recipe, corpus, seed=0).network
    parts = {name: _pooled(part, pattern) for name, part in corpus.parts.items()}
    labels = [u.label for u in corpus.parts["train"]]
    scaler = StandardScaler().fit(parts["train"])
    held_out = [u.label for u in corpus.parts["validation"]]
    x = scaler.transform(parts["validation"])
    best, truth = -1.0, None
    for strength in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
        one = LogisticRegression(C=strength, class_weight="balanced", max_iter=5000)
        one.fit(scaler.transform(parts["train"]), labels)
        figure = recall_score(held_out, one.predict(x), average="macro")
        if figure > best + 1e-9:
            best, truth = figure, one
    assert truth is not None
    expected = truth.decision_function(scaler.transform(parts["test"]))
    found = score(network, corpus.parts["test"], [pattern])[pattern].raw
    np.testing.assert_allclose(found, expected, atol=2e-2)
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.97


def test_natural_gaps_train_as_such_and_a_class_that_a_pattern_lacks_is_named() -> None:
    recipe = load_recipe("synthetic", SMALL, model="linear")
    corpus = load_corpus(recipe.corpus, fold=1)
    text = MODALITIES[2]

    def drop(utterances: list[Utterance], classes: set[int]) -> list[Utterance]:
        return [
            Utterance(u.name, {m: x for m, x in u.features.items() if m != text}, u.label)
            if u.label in classes and (len(classes) == 1 or index % 3)
            else u
            for index, u in enumerate(utterances)
        ]

    half = Corpus(
        corpus.name, corpus.labels, corpus.features,
        corpus.parts | {"train": drop(corpus.parts["train"], {0, 1, 2, 3})}, corpus.statistics,
    )  # fmt: skip
    network = train(recipe, half, seed=0).network
    scores = score(network, corpus.parts["test"])
    assert len(scores[Pattern.parse("t")].rows) == 50
    none = Corpus(
        corpus.name, corpus.labels, corpus.features,
        corpus.parts | {"train": drop(corpus.parts["train"], {2})}, corpus.statistics,
    )  # fmt: skip
    with pytest.raises(CorpusError, match="no training utterance of class neutral has pattern t"):
        train(recipe, none, seed=0)
