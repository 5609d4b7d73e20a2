"""The bundle, the predictor and the made-up GPU that most tests of the runtime take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_tensorrt import machine
from small_bundles import ALL

from ifmmin.runtime import Predictor

gpu = pytest.fixture(machine)


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., Path]) -> Path:
    """Of all patterns, for utterances and streams; not to be changed."""
    return make_bundle(ALL, shapes=("latency", "stream"))


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return Predictor(bundle, backend="onnxruntime-cpu")
