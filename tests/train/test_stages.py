"""What happens inside training, each step against what it promises."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ifmmin.runtime.modality import ALL_PATTERNS, INCOMPLETE_PATTERNS, MODALITIES
from ifmmin.train.batch import collate, pattern_mask
from ifmmin.train.corpora import load_corpus
from ifmmin.train.corpus import Corpus, Utterance
from ifmmin.train.evaluate import evaluate
from ifmmin.train.losses import bounded, invariance_discrepancy
from ifmmin.train.models import FusionNetwork, ImaginationNetwork
from ifmmin.train.recipe import Recipe, load_recipe
from ifmmin.train.stages import _Full, _Missing, _run_epoch, draw_patterns, train

SMALL = (
    "corpus.modalities={a: {dim: 5, frames: [2, 6]}, v: {dim: 6, frames: [2, 6]}, "
    "t: {dim: 7, frames: [3, 9], missing_length: 5}}",
    "corpus.train=48",
    "corpus.validation=40",
    "network={embedding: 8, text_channels: 4, blocks: 2, block_sizes: [8, 4]}",
    "stage1={epochs: 3, decay_epochs: 0, batch_size: 16, learning_rate: 3.0e-3, dropout: 0.3, "
    "clip: 0.5}",
    "stage2={epochs: 5, decay_epochs: 0, batch_size: 16, learning_rate: 3.0e-3, dropout: 0.5, "
    "clip: 1.0, invariance: 10.0}",
)


def _small(*more: str) -> tuple[Recipe, Corpus]:
    recipe = load_recipe("synthetic", [*SMALL, *more])
    return recipe, load_corpus(recipe.corpus, fold=1)


def test_the_network_standardises_with_the_corpus_statistics() -> None:
    network = train(*_small(), seed=0).network
    statistics = _small()[1].statistics
    for modality in MODALITIES:
        normaliser = network.normaliser(modality)
        np.testing.assert_allclose(normaliser.mean.numpy(), statistics[modality].mean, rtol=1e-5)
        np.testing.assert_allclose(normaliser.std.numpy(), statistics[modality].std, rtol=1e-5)


def test_stage_2_starts_from_stage_1() -> None:
    teacher = train(*_small("network.model=fusion"), seed=3).network.state_dict()
    student = train(*_small("stage2.learning_rate=1.0e-12"), seed=3).network.state_dict()
    shared = [name for name in student if name.startswith(("encoders", "invariant"))]
    assert len(shared) > 10
    for name in shared:
        torch.testing.assert_close(student[name], teacher[name], rtol=0, atol=1e-8)


def test_the_best_validation_epoch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    figures, states = iter([0.1, 0.9, 0.2, 0.9, 0.0]), []

    def validate(objective: _Missing, _: object) -> float:
        states.append(copy.deepcopy(objective._network.state_dict()))
        return next(figures)

    monkeypatch.setattr(_Missing, "validate", validate)
    kept = train(*_small(), seed=0).network.state_dict()
    same = [all(torch.equal(kept[name], state[name]) for name in kept) for state in states]
    assert same == [False, True, False, False, False]


def test_validation_is_the_mean_over_the_incomplete_patterns() -> None:
    recipe, corpus = _small()
    trained = train(recipe, corpus, seed=0)
    best = max(row["validation"] for row in trained.history if row["stage"] == 2)
    metrics = evaluate(trained.network, corpus.parts["validation"])
    assert best == pytest.approx(np.mean([metrics[p].ua for p in INCOMPLETE_PATTERNS]))


def test_every_sub_network_is_clipped_apart(make_network: Any, make_utterance: Any) -> None:
    network = make_network()
    recipe, _ = _small()
    utterances = [make_utterance(np.random.default_rng(i), {"a": 4, "v": 4, "t": 6}, i % 4)
                  for i in range(8)]  # fmt: skip
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    # Plain gradient descent with rate 1 moves a part by exactly its clipped gradient.
    descent = torch.optim.SGD(network.parameters(), lr=1.0)
    _run_epoch(
        network,
        recipe.stage1,
        [utterances],
        lambda batch: {"loss": 1e6 * F.cross_entropy(network(batch).logits, batch.labels)},
        descent,
    )
    moved = {name: p.detach() - before[name] for name, p in network.named_parameters()}
    norms = []
    for part in network.parts().values():
        names = [n for n, p in network.named_parameters() if any(p is q for q in part.parameters())]
        norms.append(float(torch.cat([moved[n].flatten() for n in names]).norm()))
    assert len(norms) == 6
    np.testing.assert_allclose(norms, recipe.stage1.clip, rtol=1e-3)


def test_stage_2_losses_equal_their_formulas(make_network: Any, make_utterance: Any) -> None:
    student, teacher = make_network(seed=1).double(), make_network("fusion", seed=2).double()
    assert isinstance(student, ImaginationNetwork)
    assert isinstance(teacher, FusionNetwork)
    recipe, _ = _small()
    assert recipe.stage2 is not None
    utterances = [make_utterance(np.random.default_rng(i), {"a": 3 + i, "v": 4, "t": 6}, i % 4)
                  for i in range(12)]  # fmt: skip
    batch = collate(utterances, student.config).to(torch.float64)
    missing = _Missing(student, teacher, recipe, recipe.stage2, np.random.default_rng(7))
    with torch.no_grad():
        found = missing.losses(batch)
        keep = draw_patterns(batch.present, pattern_mask(INCOMPLETE_PATTERNS),
                             np.random.default_rng(7))  # fmt: skip
        entropies, imagination, invariance = [], [], []
        for row, utterance in enumerate(utterances):
            # Each utterance alone, with only what its pattern leaves, and its complement.
            left = {m: utterance.features[m] for i, m in enumerate(MODALITIES) if keep[row, i]}
            rest = {m: x for m, x in utterance.features.items() if m not in left}
            parts = [
                collate([Utterance("x", features, utterance.label)], student.config)
                for features in (left, rest, utterance.features)
            ]
            given, complement, whole = (part.to(torch.float64) for part in parts)
            output = student(given)
            assert output.imagined is not None
            entropies.append(F.cross_entropy(output.logits, given.labels))
            imagination.append(((output.imagined - teacher.embeddings(complement)) ** 2).mean())
            target = teacher.invariant(teacher.embeddings(whole))
            invariance.append(((output.invariant - target) ** 2).mean())
    for name, values, weight in (
        ("cross_entropy", entropies, 1.0),
        ("imagination", imagination, recipe.stage2.imagination),
        ("invariance", invariance, recipe.stage2.invariance),
    ):
        assert float(found[name]) == pytest.approx(weight * float(torch.stack(values).mean()))


def test_patterns_are_drawn_uniformly_within_what_is_present() -> None:
    present = torch.tensor([[True, True, True]] * 6000 + [[False, True, False]] * 500)
    keep = draw_patterns(present, pattern_mask(ALL_PATTERNS), np.random.default_rng(0))
    drawn, counts = np.unique(keep[:6000].numpy(), axis=0, return_counts=True)
    assert len(drawn) == 7
    assert counts.std() < 0.1 * counts.mean()
    assert torch.equal(keep[6000:], present[6000:])


@pytest.mark.parametrize("squashed", [False, True])
def test_stage_1_losses_are_weighted_as_the_recipe_says(
    make_network: Any, make_utterance: Any, squashed: bool
) -> None:
    network = make_network("fusion")
    utterances = [make_utterance(np.random.default_rng(i), {"a": 3, "v": 4, "t": 6}, i % 4)
                  for i in range(9)]  # fmt: skip
    batch = collate(utterances, network.config)
    recipe, _ = _small("stage1.cmd=0.5", f"stage1.cmd_bounded={str(squashed).lower()}")
    with torch.no_grad():
        found, output = _Full(network, recipe).losses(batch), network(batch)
        features = bounded(output.invariant) if squashed else output.invariant
        discrepancy = invariance_discrepancy(features)
    assert set(found) == {"cross_entropy", "cmd"}
    assert float(found["cmd"]) == pytest.approx(0.5 * float(discrepancy))
    cross_entropy = F.cross_entropy(output.logits, batch.labels)
    assert float(found["cross_entropy"]) == pytest.approx(float(cross_entropy))
