"""pytest-benchmark suite: specialised graphs beside the monolith, IEMOCAP's dimensions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ifmmin.benchmarks.peers.monolith import Monolith
from ifmmin.benchmarks.side_by_side import TYPICAL_FRAMES, ordinary_utterance
from ifmmin.export.export import Request, export_bundle
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern
from ifmmin.runtime.predictor import Predictor
from ifmmin.train.checkpoint import save_checkpoint
from ifmmin.train.config import FeatureConfig, ModelConfig
from ifmmin.train.models import build_network
from ifmmin.train.network import EmotionNetwork

DIMS = {Modality.A: 130, Modality.V: 342, Modality.T: 1024}


@pytest.fixture(scope="module")
def network() -> EmotionNetwork:
    torch.manual_seed(0)
    features = {m: FeatureConfig(dim=dim) for m, dim in DIMS.items()}
    return build_network(ModelConfig(labels=("a", "h", "n", "s"), features=features)).eval()


@pytest.fixture(scope="module")
def bundle(network: EmotionNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latency")
    save_checkpoint(folder / "m.safetensors", network, {})
    # Untrained weights are large, and so are the logits that float32 rounds.
    request = Request(shapes=("latency",), losses={"logits": 1e-3})
    export_bundle(folder / "m.safetensors", ALL_PATTERNS, folder / "bundle", request=request)
    return folder / "bundle"


@pytest.mark.parametrize("contender", ["specialised", "monolith"])
@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_one_utterance_on_one_thread(
    benchmark: Any, network: EmotionNetwork, bundle: Path, pattern: Pattern, contender: str
) -> None:
    benchmark.group = f"pattern {pattern}"
    given = {m: x for m, x in ordinary_utterance(network).items() if m in pattern}
    predictor, monolith = Predictor(bundle, backend="onnxruntime-cpu"), Monolith(network)
    prepared = monolith.prepare(given, TYPICAL_FRAMES)
    assert abs(predictor.predict(given).logits - monolith(prepared)).max() < 1e-2
    ours = partial(predictor.predict, given)
    benchmark(ours if contender == "specialised" else partial(monolith, prepared))
