"""What happens inside training, and that dead embeddings and collapsed features are told."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import small_network, small_utterance
from small_recipe import small

from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import ALL_PATTERNS, INCOMPLETE_PATTERNS, MODALITIES
from ifmmin.train.checkpoint import save_checkpoint
from ifmmin.train.evaluate import (
    active_shares,
    calibrate,
    effective_dimensions,
    embed,
    evaluate,
    examine,
    score,
    warn,
)
from ifmmin.train.metrics import mean_of_measured, shown
from ifmmin.train.model.network import EmotionNetwork
from ifmmin.train.trainer import Validation, train


def test_the_network_standardises_with_the_corpus_statistics() -> None:
    network = train(*small(), seed=0).network
    statistics = small()[1].statistics
    for modality in MODALITIES:
        normaliser = network.normaliser(modality)
        np.testing.assert_allclose(normaliser.mean.numpy(), statistics[modality].mean, rtol=1e-5)
        np.testing.assert_allclose(normaliser.std.numpy(), statistics[modality].std, rtol=1e-5)
    recipe, corpus = small()
    trained = train(recipe, corpus, seed=0)
    best = max(row["validation"] for row in trained.history if row["stage"] == 2)
    metrics = evaluate(trained.network, corpus.parts["validation"])
    assert best == pytest.approx(np.mean([metrics[p].ua for p in INCOMPLETE_PATTERNS]))


def test_stage_2_starts_from_stage_1() -> None:
    teacher = train(*small(model="fusion"), seed=3).network.state_dict()
    student = train(*small("stage2.learning_rate=1.0e-12"), seed=3).network.state_dict()
    shared = [name for name in student if name.startswith(("encoders", "invariant"))]
    assert len(shared) > 10
    for name in shared:
        torch.testing.assert_close(student[name], teacher[name], rtol=0, atol=1e-8)


@pytest.mark.parametrize(("keep", "kept_epoch"), [("best", 1), ("last", 2)])
def test_the_epoch_that_is_kept(
    monkeypatch: pytest.MonkeyPatch, keep: str, kept_epoch: int
) -> None:
    figures = iter([0.1, 0.2, 0.1, 0.9, 0.9])
    states = []

    def judge(_: Validation, network: EmotionNetwork) -> dict[str, float]:
        states.append(copy.deepcopy(network.state_dict()))
        return {"validation": next(figures)}

    monkeypatch.setattr(Validation, "__call__", judge)
    kept = train(*small(f"stage2.keep={keep}"), seed=0).network.state_dict()
    same = [all(torch.equal(kept[name], state[name]) for name in kept) for state in states[2:]]
    assert same == [index == kept_epoch for index in range(3)]


@pytest.mark.parametrize("model", ["if-mmin", "mmin", "augmented", "fusion", "linear"])
def test_every_model_trains_to_the_same_bytes(model: str, tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        trained = train(*small(model=model), seed=1)
        save_checkpoint(tmp_path / name, trained.network, {})
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    for stage in {row["stage"] for row in trained.history}:
        errors = [row["cross_entropy"] for row in trained.history if row["stage"] == stage]
        assert errors[-1] < errors[0]


@pytest.mark.parametrize("patterns", ["every", "all"])
def test_statistics_encoders_train_on_every_pattern(patterns: str) -> None:
    functionals = "{functionals: [mean, std], dropout: 0.1, limit: 4}"
    statistics = f"{{a: {functionals}, v: {functionals}, t: {functionals}}}"
    recipe, corpus = small(
        f"network.statistics={statistics}", f"stage2.patterns={patterns}", "stage2.decay=cosine",
        "stage2.warm_up=3", "stage2.imagination_of=missing",
        "stage2.class_balance=true",
    )  # fmt: skip
    trained = train(recipe, corpus, seed=0)
    last = trained.history[-1]
    assert {"imagination", "invariance"} <= set(last)
    errors = [row["cross_entropy"] for row in trained.history if row["stage"] == 2]
    assert errors[-1] < errors[0]


def test_reference_batches_train_and_let_padding_in() -> None:
    recipe, corpus = small("reference_batches=true", "length_buckets=1")
    network = train(recipe, corpus, seed=0).network
    test = corpus.parts["test"][:20]
    together = score(network, test)[INCOMPLETE_PATTERNS[0]].logits
    alone = np.concatenate([score(network, [u])[INCOMPLETE_PATTERNS[0]].logits for u in test])
    assert np.abs(together - alone).max() > 1e-4
    network.reference_batches = False
    together = score(network, test)[INCOMPLETE_PATTERNS[0]].logits
    alone = np.concatenate([score(network, [u])[INCOMPLETE_PATTERNS[0]].logits for u in test])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def _examine(network: EmotionNetwork) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    utterances = [small_utterance(rng, {"a": 7, "v": 6, "t": 8}) for _ in range(30)]
    return examine(network, embed(network, utterances))


def test_dead_encoders_and_collapsed_features_are_told(capsys: Any) -> None:
    report = _examine(small_network())
    assert set(report) == {"a", "v", "t"}
    assert all(entry["active"] > 0.5 for entry in report.values())
    warn(report)
    assert capsys.readouterr().err == ""
    network = small_network()
    with torch.no_grad():
        network.get_parameter("encoders.t.output.bias").fill_(-100.0)
    report = _examine(network)
    assert report["t"]["active"] == 0.0
    assert report["a"]["active"] > 0.5
    warn(report)
    error = capsys.readouterr().err
    assert "textual embedding is dead: 0%" in error
    assert "acoustic" not in error
    network = small_network()
    with torch.no_grad():
        network.get_parameter("invariant.linears.1.weight")[1:] = 0.0
    report = _examine(network)
    assert all(entry["invariant_dimensions"] <= 1.01 for entry in report.values())
    warn(report)
    assert "have collapsed to 1.0 effective dimensions" in capsys.readouterr().err


def test_a_temperature_is_of_several_classes() -> None:
    network, rng = small_network(), np.random.default_rng(0)
    utterances = [small_utterance(rng, {"a": 5}) for _ in range(30)]
    embedded = embed(network, utterances)
    for labels, fitted in ((np.zeros(30, np.int64), False), (np.arange(30) % 4, True)):
        found = calibrate(network, embedded, labels)
        assert (found[ALL_PATTERNS[0]] != 1.0) == fitted
        assert found[ALL_PATTERNS[1]] == 1.0  # no utterance has v


def test_what_overflows_in_the_network_is_no_answer() -> None:
    network, rng = small_network(), np.random.default_rng(0)
    good, bad = (small_utterance(rng, {"a": 7, "v": 6, "t": 8}) for _ in range(2))
    bad = dataclasses.replace(bad, name="loud", features={**bad.features})
    bad.features[MODALITIES[2]] = np.full_like(bad.features[MODALITIES[2]], 3e38)
    with pytest.raises(CorpusError, match="utterance loud, modality t: the features are finite"):
        score(network, [good, bad])


def test_means_are_over_what_was_measured() -> None:
    assert mean_of_measured([0.25, math.nan, 0.75]) == 0.5
    assert math.isnan(mean_of_measured([math.nan]))
    assert [shown(0.5), shown(math.nan)] == ["0.500", "-"]


def test_effective_dimensions_of_known_covariances() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20000, 6, generator=generator)
    assert abs(effective_dimensions(x) - 6) < 0.05
    x[:, 1:] = 0
    assert abs(effective_dimensions(x) - 1) < 1e-6
    assert effective_dimensions(torch.ones(5, 3)) == 0.0
    network, rng = small_network(), np.random.default_rng(0)
    utterances = [small_utterance(rng, {"a": 5}) for _ in range(5)]
    assert set(active_shares(network, embed(network, utterances))) == {"a"}
