"""Scale of what graphs are proven on: that of training features, of a sample, or said not to be."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_command import call, mistake
from small_networks import small_network
from small_recipe import small

from ifmmin.export.bundle_cli import main as bundle_main
from ifmmin.export.cli import main
from ifmmin.export.verify.probes import Probes
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.checkpoint import load_checkpoint, save_checkpoint
from ifmmin.train.data.corpus import Corpus
from ifmmin.train.model.network import EmotionNetwork
from ifmmin.train.trainer import train

LARGE = 6e4
ONE = ("--pattern", "a", "--shape", "latency")


def _corpus(
    model: str = "if-mmin", offset: float = LARGE, scale: float = LARGE
) -> tuple[Any, Corpus]:
    """Features of a and v around 6e4, which nobody standardises."""
    recipe, corpus = small(model=model)

    def moved(modality: Modality, x: Any) -> Any:
        x = x.astype(np.float32)
        return x if modality is Modality.T else np.float32(offset) + np.float32(scale) * x

    parts = {
        name: [
            dataclasses.replace(u, features={m: moved(m, x) for m, x in u.features.items()})
            for u in part
        ]
        for name, part in corpus.parts.items()
    }
    return recipe, dataclasses.replace(corpus, parts=parts, statistics={})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was trained on them."""
    path = tmp_path_factory.mktemp("large") / "model.safetensors"
    save_checkpoint(path, train(*_corpus(), seed=0).network, {})
    return path


def _unobserved(path: Path) -> Path:
    """A checkpoint that knows nothing of its features, as one that was imported."""
    network = small_network()
    for modality in MODALITIES:
        network.normaliser(modality).mean.zero_()
        network.normaliser(modality).std.fill_(1.0)
    save_checkpoint(path, network, {})
    return path


@pytest.mark.parametrize("model", ["if-mmin", "fusion", "linear"])
def test_checkpoints_keep_what_features_are_like(model: str, tmp_path: Path) -> None:
    recipe, corpus = _corpus(model)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, train(recipe, corpus, seed=0).network, {})
    network, _ = load_checkpoint(path)
    for modality in MODALITIES:
        frames = np.concatenate([u.features[modality] for u in corpus.parts["train"]])
        observed = network.observed(modality)
        np.testing.assert_array_equal(observed.minimum, frames.min(axis=0))
        np.testing.assert_array_equal(observed.maximum, frames.max(axis=0))
        exact = frames.astype(np.float64)
        np.testing.assert_allclose(observed.mean, exact.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(observed.std, exact.std(axis=0), rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_probes_lie_in_the_range_of_training(large: Path, seed: int) -> None:
    network, _ = load_checkpoint(large)
    for features in Probes(network, seed=seed).draw(seed):
        for modality, x in features.items():
            observed = network.observed(modality)
            beyond = 0.051 * (observed.maximum - observed.minimum) + 1e-3
            assert (x >= (observed.minimum - beyond).numpy()).all()
            assert (x <= (observed.maximum + beyond).numpy()).all()


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_half_precision_is_refused_where_features_are_too_large(
    large: Path, tmp_path: Path, precision: str
) -> None:
    words = [large, *ONE, "--precision", precision, "--out", tmp_path / "bundle"]
    if precision == "fp16":
        generous = ("--allow-loss", "probabilities=1", "--allow-loss", "agreement=0")
        for more in ((), generous):
            error = mistake(main, *words, *more)
            assert "latency a fp16 scan does not answer T_a=" in error
            assert "export fp32 or train with standardisation" in error
        assert list(tmp_path.iterdir()) == []
        return
    ran = call(main, *words)
    assert (ran.code, "is not known" in ran.err) == (0, False)
    golden = Bundle(tmp_path / "bundle").golden_inputs()
    assert min(abs(features[Modality.A]).max() for features in golden) > LARGE
    assert call(bundle_main, "verify", "-b", tmp_path / "bundle", "--checkpoint", large).code == 0


@pytest.mark.parametrize(
    ("offset", "scale"), [(0.0, 1.0), (6e4, 1e3), (6.5e4, 10.0), (0.0, 3e4), (1e6, 1.0)]
)
def test_what_passes_in_half_precision_answers_every_clip(
    tmp_path: Path, offset: float, scale: float
) -> None:
    recipe, corpus = _corpus("if-mmin", offset, scale)
    checkpoint, out = tmp_path / "model.safetensors", tmp_path / "bundle"
    save_checkpoint(checkpoint, train(recipe, corpus, seed=0).network, {})
    if call(main, checkpoint, *ONE, "--precision", "fp16", "--out", out).code == 2:
        return
    (entry,) = Bundle(out).manifest.graphs
    run = OnnxRuntimeCpu().load(Bundle(out).graph(entry), literal=True)
    for utterance in corpus.parts["test"]:
        x = utterance.features.get(Modality.A)
        if x is not None:
            assert np.isfinite(run({"a": x.astype(np.float32)})[0]).all()


def test_an_unknown_scale_is_said_and_recorded(tmp_path: Path) -> None:
    checkpoint, out = _unobserved(tmp_path / "model.safetensors"), tmp_path / "bundle"
    ran = call(main, checkpoint, *ONE, "--out", out)
    assert ran.code == 0
    assert "warning: what features of a are like is not known" in ran.err
    (entry,) = Bundle(out).manifest.graphs
    assert entry.parity["unit_size"] == ["a"]
    assert "unit size" in (out / "README.md").read_text()


def test_a_sample_tells_the_scale(tmp_path: Path) -> None:
    checkpoint, out = _unobserved(tmp_path / "model.safetensors"), tmp_path / "bundle"
    (tmp_path / "clips").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        np.savez(tmp_path / "clips" / f"{number}.npz", a=300 + rng.standard_normal((20, 5)))
    words = [checkpoint, *ONE, "--sample", tmp_path / "clips", "--out", out]
    ran = call(main, *words)
    assert (ran.code, "is not known" in ran.err) == (0, False)
    bundle = Bundle(out)
    assert "unit_size" not in bundle.manifest.graphs[0].parity
    assert all(abs(x[Modality.A] - 300).max() < 10 for x in bundle.golden_inputs())
    assert call(bundle_main, "verify", "-b", out, "--checkpoint", checkpoint).code == 0


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "no .npz file"),
        ({"a": np.zeros((3, 4))}, "got shape (3, 4), wanted (frames, 5)"),
        ({"a": np.full((3, 5), np.nan)}, "must be finite"),
        ({"x": np.zeros((3, 5))}, "unknown array 'x'"),
    ],
)
def test_samples_that_cannot_be_taken(tmp_path: Path, arrays: Any, said: str) -> None:
    checkpoint = _unobserved(tmp_path / "model.safetensors")
    (tmp_path / "clips").mkdir()
    if arrays:
        np.savez(tmp_path / "clips" / "one.npz", **arrays)
    words = [checkpoint, *ONE, "--sample", tmp_path / "clips", "--out", tmp_path / "bundle"]
    assert said in mistake(main, *words)
    assert not (tmp_path / "bundle").exists()


def _of_one_class() -> EmotionNetwork:
    """Its text moves logits by much, but never so far that another class wins."""
    network = small_network()
    with torch.no_grad():
        network.get_parameter("classifier.linears.2.bias")[0] += 60.0
    return network


def _deaf() -> EmotionNetwork:
    network = _of_one_class()
    with torch.no_grad():
        network.get_parameter("encoders.t.output.weight").zero_()
    return network


@pytest.mark.parametrize(("network", "blind"), [(_of_one_class, False), (_deaf, True)])
def test_blind_is_what_does_not_look(network: Any, blind: bool, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(checkpoint, network(), {})
    words = ["--pattern", "t", "--shape", "latency", "--out", tmp_path / "bundle"]
    ran = call(main, checkpoint, *words)
    assert ran.code == 0
    assert ("may be blind" in ran.err) == blind
