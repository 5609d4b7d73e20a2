"""Tiny networks whose answers spread, and the places of real data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ifmmin.runtime.modality import MODALITIES
from ifmmin.train.batch import Batch, collate
from ifmmin.train.checkpoint import save_checkpoint
from ifmmin.train.config import Architecture, FeatureConfig, ModelConfig
from ifmmin.train.corpus import Utterance
from ifmmin.train.models import build_network
from ifmmin.train.network import EmotionNetwork

# The tests run beside each other; threads that wait for one another's cores make all of them crawl.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]
DIMS = {"a": 5, "v": 7, "t": 11}

MakeNetwork = Callable[..., EmotionNetwork]
MakeUtterance = Callable[..., Utterance]
MakeBatch = Callable[..., Batch]


def _network(model: str = "if-mmin", form: str = "cascade", seed: int = 0) -> EmotionNetwork:
    torch.manual_seed(seed)
    config = ModelConfig(
        labels=("angry", "happy", "neutral", "sad"),
        features={
            m: FeatureConfig(dim=DIMS[m.value], missing_length=9, frame_rate=10.0)
            for m in MODALITIES
        },
        architecture=Architecture(
            model=model,
            imagination=form,
            embedding=8,
            text_channels=6,
            blocks=3,
            block_sizes=(10, 9, 4),
            classifier_sizes=(12, 8),
        ),
    )
    network = build_network(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            # Default weights make every comparison empty: whole modalities hardly move the answer.
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.3)
            elif name == "encoders.t.output.weight":
                parameter.mul_(0.2)  # no modality may drown the others
            elif "rnn" in name:
                parameter.mul_(2.0)
            else:
                parameter.mul_(1.1)
        for modality in MODALITIES:
            normaliser = network.normaliser(modality)
            normaliser.mean.normal_(0.0, 2.0)
            normaliser.std.uniform_(0.5, 3.0)
        rng = np.random.default_rng(0)
        some = [_utterance(rng, {"a": 9, "v": 8, "t": 7}) for _ in range(16)]
        # Logits around zero that vary by class and input, so that every class wins somewhere.
        logits = network.eval()(collate(some, config)).logits
        last = "classifier.linears.2"
        network.get_parameter(f"{last}.bias").sub_(logits.mean(dim=0))
        for name in ("weight", "bias"):
            network.get_parameter(f"{last}.{name}").mul_(3.0 / logits.std(dim=0).mean())
    return network


def _utterance(rng: np.random.Generator, frames: dict[str, int], label: int = 0) -> Utterance:
    features: dict[object, np.ndarray] = {}
    for modality in MODALITIES:
        if frames.get(modality.value, 0):
            shape = (frames[modality.value], DIMS[modality.value])
            features[modality] = (2 * rng.standard_normal(shape)).astype(np.float32)
    return Utterance("made", features, label)  # type: ignore[arg-type]


@pytest.fixture
def make_network() -> MakeNetwork:
    return _network


@pytest.fixture
def make_utterance() -> MakeUtterance:
    return _utterance


@pytest.fixture
def alone() -> Callable[[EmotionNetwork, Utterance], np.ndarray]:
    """Logits of one utterance in float64, in a batch of its own."""

    def logits(network: EmotionNetwork, utterance: Utterance) -> np.ndarray:
        with torch.no_grad():
            batch = collate([utterance], network.config).to(next(network.parameters()).dtype)
            return np.asarray(network(batch).logits[0].numpy())

    return logits


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of a tiny untrained network."""
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, _network(), {"corpus": "made"})
    return path


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def composite() -> dict[str, Path]:
    """Roots of the composite corpus, which is not part of the project."""
    folder = ROOT.parent / "shared" / "data" / "composite"
    if not folder.is_dir():
        pytest.skip("the composite corpus is not at ../shared/data/composite")
    return {"features": folder / "features", "targets": folder / "target"}
