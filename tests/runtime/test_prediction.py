"""Probabilities of logits, and logits of which there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundles import ALL, small_bundle
from stream_process import frames

from ifmmin.runtime import InputError, Predictor
from ifmmin.runtime.prediction import is_answer, softmax, softmax_of_one

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "row", [[NAN, 1, 2], [1, NAN, 2], [1, 2, NAN], [1, 2, INF], [-INF] * 3, [INF, -INF, NAN]]
)
def test_of_logits_that_are_not_finite_nothing_is_left(row: list[float]) -> None:
    logits = np.array(row, np.float32)
    assert not is_answer(softmax_of_one(logits)[1])
    assert not is_answer(softmax(logits[None])[0])


@pytest.mark.parametrize("row", [[-INF, 0, 1], [3e38, -3e38, 0], [0, 0, 0], [-1e4, 1e4, 5.0]])
def test_of_far_apart_logits_something_is(row: list[float]) -> None:
    logits = np.array(row, np.float32)
    winner, alone = softmax_of_one(logits)
    assert is_answer(alone)
    np.testing.assert_allclose(softmax(logits[None])[0], alone, atol=1e-6)
    assert winner == int(logits.argmax())
    assert alone.sum() == pytest.approx(1.0)


def test_an_answer_that_is_no_number_is_refused(
    make_network: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Finite features may overflow inside a graph; no emotion shall be named for that."""
    bundle: Path = small_bundle(make_network, tmp_path_factory, ALL)
    predictor = Predictor(bundle, backend="onnxruntime-cpu")
    good, huge = {"t": frames("t", 9)}, {"t": np.full((9, 11), 3e38, np.float32)}
    with pytest.raises(InputError, match=r"the answer is not a number.*too large for fp32 graphs"):
        predictor.predict(huge)
    with pytest.raises(InputError, match="utterance 1: the answer is not a number"):
        predictor.predict_batch([good, huge])
    assert is_answer(predictor.predict(good).probabilities)
