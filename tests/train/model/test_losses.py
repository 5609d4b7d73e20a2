"""Losses, metrics, temperatures and the linear specialist against computations of other kinds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score
from sklearn.preprocessing import StandardScaler
from small_networks import small_network, small_utterance
from small_recipe import small

from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES, Pattern
from ifmmin.runtime.prediction import softmax
from ifmmin.train.checkpoint import load_checkpoint
from ifmmin.train.cli import main
from ifmmin.train.data.corpus import Corpus, Utterance
from ifmmin.train.evaluate import calibrate, embed, fit_temperature, labels_of, report, score
from ifmmin.train.metrics import measure
from ifmmin.train.model.losses import (
    bounded,
    central_moment_discrepancy,
    imagination_target,
    invariance_discrepancy,
    missing_error,
)
from ifmmin.train.model.network import EmotionNetwork
from ifmmin.train.trainer import train

ALL = torch.ones(64, 3, dtype=torch.bool)


def _cmd(x: np.ndarray, y: np.ndarray) -> float:
    total = np.sqrt(((x.mean(0) - y.mean(0)) ** 2).sum())
    for k in range(2, 6):
        moments = [((s - s.mean(0)) ** k).mean(0) for s in (x, y)]
        total += np.sqrt(((moments[0] - moments[1]) ** 2).sum())
    return float(total)


def test_cmd_equals_its_formula_and_its_gradient_is_finite_everywhere() -> None:
    h = torch.randn(20, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = h.numpy()
    pairs = [_cmd(x[:, i], x[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert abs(float(invariance_discrepancy(h, ALL[: len(h)])) - np.mean(pairs)) < 1e-12
    drawn = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    for same in (torch.zeros(8, 4), drawn):
        first = same.clone().requires_grad_()
        central_moment_discrepancy(first, same.clone()).backward()  # type: ignore[no-untyped-call]
        assert first.grad is not None
        assert torch.isfinite(first.grad).all()


def test_scaling_features_is_no_way_out_of_the_bounded_cmd() -> None:
    h = torch.randn(64, 3, 5, generator=torch.Generator().manual_seed(2))
    h[:, 0] += 2.0
    small, large = (
        float(invariance_discrepancy(bounded(scale * h, ALL), ALL)) for scale in (0.1, 10.0)
    )
    assert abs(small - large) < 1e-2
    assert float(bounded(h, ALL).abs().max()) < 1.0
    assert float(invariance_discrepancy(0.1 * h, ALL)) < 0.2 * float(
        invariance_discrepancy(h, ALL[: len(h)])
    )


def test_imagination_target_is_the_teachers_view_of_the_complement() -> None:
    full, missing = torch.ones(2, 3, 4), torch.zeros(3, 4)
    keep = torch.tensor([[True, False, False], [True, True, False]])
    target = imagination_target(full, missing, keep)
    assert torch.equal(target[..., 0], (~keep).float())
    imagined, full = torch.ones(2, 3, 4), torch.zeros(2, 3, 4)
    missing = torch.tensor([[True, False, False], [True, True, False]])
    imagined[~missing] = 50.0
    imagined[1, 1] = 2.0
    assert float(missing_error(imagined, full, missing)) == (1 + 1 + 4) / 3
    assert float(missing_error(imagined, full, torch.zeros_like(missing))) == 0.0


def test_cmd_reads_only_what_is_present() -> None:
    h = torch.randn(64, 3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    present = ALL.clone()
    present[:20, 2] = False
    present[30:, 1] = False
    x = h.numpy()
    pairs = [_cmd(x[:30, 0], x[:30, 1]), _cmd(x[20:, 0], x[20:, 2]), _cmd(x[20:30, 1], x[20:30, 2])]
    found = float(invariance_discrepancy(h, present))
    assert abs(found - np.mean(pairs)) < 1e-12
    changed = h.clone()
    changed[~present] = 1e3
    assert float(invariance_discrepancy(changed, present)) == found
    torch.testing.assert_close(
        bounded(h, present)[present], bounded(changed, present)[present], rtol=0, atol=0
    )


@given(seed=st.integers(0, 10_000), size=st.integers(1, 60))
def test_equal_to_scikit_learn(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((size, 4)), rng.integers(0, 4, size)
    answers, seen = logits.argmax(1), np.unique(labels)
    found = measure(logits, labels)
    assert np.isclose(found.wa, accuracy_score(labels, answers))
    recall = recall_score(labels, answers, labels=seen, average="macro")
    assert np.isclose(found.ua, recall)
    assert np.isclose(found.f1, f1_score(labels, answers, average="macro"))
    assert found.confusion == confusion_matrix(labels, answers, labels=range(4)).tolist()


def test_calibration_error_of_a_sure_and_wrong_half() -> None:
    logits = np.array([[50.0, 0.0], [50.0, 0.0]])
    assert np.isclose(measure(logits, np.array([0, 1])).ece, 0.5)


def _pooled(utterances: list[Utterance], pattern: Pattern) -> np.ndarray:
    rows = []
    for utterance in utterances:
        frames = [utterance.features[m].astype(float) for m in pattern]
        rows.append(np.concatenate([np.append(x.mean(0), x.std(0)) for x in frames]))
    return np.array(rows)


@pytest.fixture(scope="module")
def trained() -> tuple[EmotionNetwork, Corpus]:
    recipe, corpus = small("corpus.train=90", model="linear")
    return train(recipe, corpus, seed=0).network, corpus


@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_specialists_equal_scikit_learn(
    trained: tuple[EmotionNetwork, Corpus], pattern: Pattern
) -> None:
    network, corpus = trained
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
    recipe, corpus = small("corpus.train=90", model="linear")
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
    assert len(scores[Pattern.parse("t")].rows) == 40
    none = Corpus(
        corpus.name, corpus.labels, corpus.features,
        corpus.parts | {"train": drop(corpus.parts["train"], {2})}, corpus.statistics,
    )  # fmt: skip
    with pytest.raises(CorpusError, match="no training utterance of class neutral has pattern t"):
        train(recipe, none, seed=0)


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.2, 8.0), seed=st.integers(0, 1000))
def test_a_known_temperature_is_found(factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = 2.0 * rng.standard_normal((4000, 4))
    draws = (softmax(logits).cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    found = fit_temperature(factor * logits, draws)
    assert found == pytest.approx(factor, rel=0.12)
    before, after = measure(factor * logits, draws), measure(factor * logits / found, draws)
    assert after.wa == before.wa
    assert after.ece < max(before.ece, 0.03)


def test_each_pattern_gets_the_temperature_of_its_own_utterances() -> None:
    network = small_network()
    rng = np.random.default_rng(0)
    frames = {"a": 6, "v": 6, "t": 7}
    whole = [small_utterance(rng, frames, int(rng.integers(4))) for _ in range(40)]
    lacking = [small_utterance(rng, {"a": 6, "v": 6}, int(rng.integers(4))) for _ in range(30)]
    utterances: list[Utterance] = [*whole, *lacking]
    labels = labels_of(utterances)
    found = calibrate(network, embed(network, utterances), labels)
    for pattern, of in (("a_v", 70), ("a_t", 40), ("t", 40), ("a_v_t", 40)):
        raw = score(network, utterances[:of], [Pattern.parse(pattern)])[Pattern.parse(pattern)].raw
        assert found[Pattern.parse(pattern)] == pytest.approx(
            fit_temperature(raw, labels[:of]), rel=1e-4
        )
    # Too few utterances say nothing.
    few = calibrate(network, embed(network, utterances[:19]), labels[:19])
    assert set(few.values()) == {1.0}


def test_an_utterance_that_lacks_a_modality_is_cooled_by_the_pattern_it_has() -> None:
    network = small_network()
    rng = np.random.default_rng(0)
    lacking = small_utterance(rng, {"a": 6})
    scores = score(network, [lacking])
    for pattern in ALL_PATTERNS:
        if "a" in pattern:
            found = scores[pattern]
            torch.testing.assert_close(
                torch.tensor(found.raw / found.logits),
                network.temperatures[0].expand(1, 4), rtol=1e-5, atol=0,
            )  # fmt: skip
        else:
            assert len(scores[pattern].rows) == 0


def test_a_run_reports_both_and_its_checkpoint_holds_the_temperatures(tmp_path: Path) -> None:
    out = tmp_path / "run"
    lines = [
        "corpus.modalities={a: {dim: 5, frames: [2, 6], gain: 1.0}, v: {dim: 6, frames: [2, 6], "
        "gain: 1.0}, t: {dim: 7, frames: [5, 9], gain: 1.0, missing_length: 5}}",
        "corpus.train=48",
        "corpus.validation=120",
        "corpus.test=120",
        "network={embedding: 16, text_channels: 8}",
        "stage2={epochs: 60, decay_epochs: 0, batch_size: 16, learning_rate: 5.0e-3, "
        "dropout: 0.0, clip: 1.0, patterns: all, keep: last}",
    ]
    chosen = [word for line in lines for word in ("--set", line)]
    command = ["fit", "--recipe", "synthetic", "--model", "augmented", *chosen]
    assert main([*command, "--out", str(out)]) == 0
    test = json.loads((out / "metrics.json").read_text())["test"]
    network, _ = load_checkpoint(out / "model.safetensors")
    for pattern, temperature in zip(ALL_PATTERNS, network.temperatures.tolist(), strict=True):
        entry = test[str(pattern)]
        assert entry["temperature"] == pytest.approx(temperature)
        assert entry["temperature"] != 1.0
        assert entry["ece_uncalibrated"] != entry["ece"]
    # Trained on 48 utterances until it knows them: sure of itself, and wrong.
    gaps = [e["confidence_uncalibrated"] - e["wa"] for e in test.values()]
    calibrated = [e["confidence"] - e["wa"] for e in test.values()]
    assert np.mean(gaps) > 0.15
    assert np.mean(np.abs(calibrated)) < 0.5 * np.mean(np.abs(gaps))


def test_the_test_part_never_reaches_the_temperatures() -> None:
    network = small_network()
    rng = np.random.default_rng(1)

    def part(count: int) -> list[Utterance]:
        frames = {"a": 5, "v": 5, "t": 6}
        return [small_utterance(rng, frames, int(rng.integers(4))) for _ in range(count)]

    parts = {"train": [], "validation": part(40), "test": part(30)}
    corpus = Corpus("made", network.config.labels, network.config.features, parts)
    report(network, corpus)
    first = network.temperatures.clone()
    flipped = [Utterance(u.name, u.features, 3 - u.label) for u in parts["test"]]
    report(network, Corpus("x", corpus.labels, corpus.features, parts | {"test": flipped}))
    assert torch.equal(first, network.temperatures)
