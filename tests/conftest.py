"""Fixtures that several folders of tests share. Without torch only those of tests/runtime run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

# A deadline would measure what else the machine is doing.
settings.register_profile("ifmmin", deadline=None)
settings.load_profile("ifmmin")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`small_bundles.small_bundle`, of which only the wishes are left to be given."""
    from small_bundles import small_bundle

    return partial(small_bundle, tmp_path_factory)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of a tiny untrained network."""
    from small_networks import small_network

    from ifmmin.train.checkpoint import save_checkpoint

    path = tmp_path / "model.safetensors"
    save_checkpoint(path, small_network(), {"corpus": "made"})
    return path


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture
def composite() -> dict[str, Path]:
    """Roots of the composite corpus, which is not part of the project."""
    folder = ROOT.parent / "shared" / "data" / "composite"
    if not folder.is_dir():
        pytest.skip("the composite corpus is not at ../shared/data/composite")
    return {"features": folder / "features", "targets": folder / "target"}
