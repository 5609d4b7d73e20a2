"""What the pytest-benchmark suite measures: a bundle at IEMOCAP's dimensions, untrained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.plan import Plan
from ifmmin.export.export import Request, export_bundle
from ifmmin.runtime.console import say
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES
from ifmmin.train.checkpoint import save_checkpoint
from ifmmin.train.config import FeatureConfig, ModelConfig
from ifmmin.train.models import build_network

DIMS = dict(zip(MODALITIES, (130, 342, 1024), strict=True))


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Everything that scenarios share. Times do not depend on what a network was taught."""
    folder: Path = tmp_path_factory.mktemp("suite")
    torch.manual_seed(0)
    features = {m: FeatureConfig(dim=dim, frame_rate=10.0) for m, dim in DIMS.items()}
    network = build_network(ModelConfig(labels=("a", "h", "n", "s"), features=features)).eval()
    save_checkpoint(folder / "model.safetensors", network, {})
    # Untrained weights are large, and so are the logits that float32 rounds.
    request = Request(losses={"logits": 1e-3})
    export_bundle(folder / "model.safetensors", ALL_PATTERNS, folder / "bundle", request=request)
    plan = Plan(bundle=folder / "bundle", checkpoint=folder / "model.safetensors")
    return Bench(plan, say)
