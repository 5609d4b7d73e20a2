"""The bundle and the predictor that most tests of the runtime take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_bundles import ALL

from ifmmin.runtime import Predictor


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., Path]) -> Path:
    """Of all patterns, for utterances and streams; not to be changed."""
    return make_bundle(ALL, shapes=("latency", "stream"))


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return Predictor(bundle, backend="onnxruntime-cpu")
