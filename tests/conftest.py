"""Fixtures that several folders of tests share. Without torch only those of tests/runtime run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A deadline would measure what else the machine is doing.
settings.register_profile("ifmmin", deadline=None)
settings.load_profile("ifmmin")

ROOT = Path(__file__).resolve().parents[1]


def _kinds() -> Iterable[str]:
    """Without torch there are none, and what asks for one is skipped."""
    if find_spec("torch") is None:
        return ()
    from small_networks import KINDS

    return [kind for kind in KINDS if kind != "linear"]


@pytest.fixture(params=_kinds())
def kind(request: pytest.FixtureRequest) -> str:
    """The name of every kind of network that is exported, one after the other."""
    return str(request.param)


def _make_network(kind: str = "if-mmin", seed: int = 0) -> Any:
    pytest.importorskip("torch", reason="torch, which makes the network, is not installed")
    from small_networks import small_network

    return small_network(kind, seed)


@pytest.fixture(scope="session")
def make_network() -> Callable[..., Any]:
    """`small_networks.small_network`; calling it without torch skips the test."""
    return _make_network


@pytest.fixture
def make_utterance() -> Callable[..., Any]:
    """`small_networks.small_utterance`."""
    from small_networks import small_utterance

    return small_utterance


@pytest.fixture
def alone() -> Callable[..., Any]:
    """`small_networks.logits_alone`; the tests give it a network in float64."""
    from small_networks import logits_alone

    return logits_alone


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of a tiny untrained network."""
    network = _make_network()
    from ifmmin.train.checkpoint import save_checkpoint

    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network, {"corpus": "made"})
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
