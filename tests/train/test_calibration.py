"""Temperatures: fitted where they should be, stored, and folded into what is deployed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ifmmin.runtime.modality import ALL_PATTERNS, Pattern
from ifmmin.train.calibration import calibrate, fit_temperature
from ifmmin.train.checkpoint import load_checkpoint
from ifmmin.train.cli import main
from ifmmin.train.corpus import Utterance
from ifmmin.train.evaluate import embed, labels_of, score
from ifmmin.train.measure import report
from ifmmin.train.metrics import measure, softmax


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


def test_each_pattern_gets_the_temperature_of_its_own_utterances(
    make_network: Any, make_utterance: Any
) -> None:
    network = make_network()
    rng = np.random.default_rng(0)
    frames = {"a": 6, "v": 6, "t": 7}
    whole = [make_utterance(rng, frames, int(rng.integers(4))) for _ in range(40)]
    lacking = [make_utterance(rng, {"a": 6, "v": 6}, int(rng.integers(4))) for _ in range(30)]
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


def test_an_utterance_that_lacks_a_modality_is_cooled_by_the_pattern_it_has(
    make_network: Any, make_utterance: Any
) -> None:
    network = make_network()
    rng = np.random.default_rng(0)
    lacking = make_utterance(rng, {"a": 6})
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


def test_the_test_part_never_reaches_the_temperatures(
    make_network: Any, make_utterance: Any
) -> None:
    from ifmmin.train.corpus import Corpus

    network = make_network()
    rng = np.random.default_rng(1)

    def part(count: int) -> list[Utterance]:
        frames = {"a": 5, "v": 5, "t": 6}
        return [make_utterance(rng, frames, int(rng.integers(4))) for _ in range(count)]

    parts = {"train": [], "validation": part(40), "test": part(30)}
    corpus = Corpus("made", network.config.labels, network.config.features, parts)
    report(network, corpus)
    first = network.temperatures.clone()
    flipped = [Utterance(u.name, u.features, 3 - u.label) for u in parts["test"]]
    report(network, Corpus("x", corpus.labels, corpus.features, parts | {"test": flipped}))
    assert torch.equal(first, network.temperatures)
