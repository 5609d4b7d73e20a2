"""Bundle that the pytest-benchmark suite measures: a given one, or one at IEMOCAP's dimensions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.plan import Plan
from ifmmin.export.export import Request, export_bundle
from ifmmin.runtime.console import log_line
from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES
from ifmmin.train.checkpoint import save_checkpoint
from ifmmin.train.config import FeatureConfig, ModelConfig
from ifmmin.train.model.models import build_network

DIMS = dict(zip(MODALITIES, (130, 342, 1024), strict=True))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the suite."""
    given = parser.getgroup("ifmmin")
    given.addoption("--bundle", type=Path, help="measure this one, with --checkpoint its network")
    given.addoption("--checkpoint", type=Path)


def pytest_configure(config: pytest.Config) -> None:
    """One line where an option lacks the other."""
    if (config.getoption("--bundle") is None) != (config.getoption("--checkpoint") is None):
        raise pytest.UsageError("got one of --bundle and --checkpoint; give both, or neither")


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Everything that scenarios share."""
    bundle, checkpoint = (request.config.getoption(f"--{x}") for x in ("bundle", "checkpoint"))
    if bundle is None:
        bundle, checkpoint = _untrained(tmp_path_factory.mktemp("suite"))
    return Bench(Plan(bundle=bundle, checkpoint=checkpoint), log_line)


def _untrained(folder: Path) -> tuple[Path, Path]:
    """A bundle and its checkpoint: times do not depend on what a network was taught."""
    torch.manual_seed(0)
    features = {m: FeatureConfig(dim=dim, frame_rate=10.0) for m, dim in DIMS.items()}
    network = build_network(ModelConfig(labels=("a", "h", "n", "s"), features=features)).eval()
    save_checkpoint(folder / "model.safetensors", network, {})
    # Untrained weights are large, and so are the logits that float32 rounds.
    request = Request(losses={"logits": 1e-3})
    export_bundle(folder / "model.safetensors", ALL_PATTERNS, folder / "bundle", request=request)
    return folder / "bundle", folder / "model.safetensors"
