"""Text shorter than the largest kernel is padded by the runtime as the network does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_bundles import small_bundle

from ifmmin.runtime.modality import Modality
from ifmmin.runtime.predictor import Predictor
from ifmmin.train.corpus import Utterance


@pytest.fixture(scope="module")
def predictor(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    bundle = small_bundle(make_network, tmp_path_factory, ("t",), shapes=("latency",))
    return Predictor(bundle, backend="onnxruntime-cpu")


@pytest.mark.parametrize("tokens", range(1, 8))
def test_short_text_is_padded_as_the_network_does(
    predictor: Predictor, make_network: Any, alone: Any, tokens: int
) -> None:
    x = np.random.default_rng(tokens).standard_normal((tokens, 11)).astype(np.float32)
    truth = alone(make_network().double(), Utterance("x", {Modality.T: x}, 0))
    np.testing.assert_allclose(predictor.predict({"t": x}).logits, truth, atol=1e-4)
