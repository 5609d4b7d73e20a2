"""A stream in 8 bits against its own graphs run whole: the same, however it was pushed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundles import small_bundle

from ifmmin.runtime import Modality, Pattern, Predictor

DIMS = {"a": 5, "v": 7, "t": 11}
FRAMES = 40
SEEDS = range(4)
CHUNKS = (1, 2, 7)
ALL_THREE = Pattern.parse("a_v_t")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_network: Any) -> Path:
    made, shapes = ("int8", "fp32"), ("latency", "stream")
    return small_bundle(make_network, tmp_path_factory, ["a_v_t"], made, shapes=shapes)


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return Predictor(bundle, backend="onnxruntime-cpu", precision="int8")


def _utterance(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {m: rng.standard_normal((FRAMES, d)).astype(np.float32) for m, d in DIMS.items()}


def _upto(utterance: dict[str, Any], end: int) -> dict[str, Any]:
    return {m: frames[:end] for m, frames in utterance.items()}


def _whole(predictor: Predictor, utterance: dict[str, Any]) -> Any:
    """Logits of the graphs of streams, each run once."""
    return predictor._shelf.parts()[0].whole(ALL_THREE).run(utterance)[0]


def _ends(chunk: int) -> list[tuple[int, int]]:
    return [(start, min(FRAMES, start + chunk)) for start in range(0, FRAMES, chunk)]


@pytest.mark.parametrize("end", [5, 6, 23, FRAMES])
def test_what_is_pushed_at_once_is_the_whole(predictor: Predictor, end: int) -> None:
    stream, heard = predictor.stream(), _upto(_utterance(0), end)
    stream.push(heard)
    np.testing.assert_array_equal(stream.predict().logits, _whole(predictor, heard))


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_pushed_in_chunks_is_the_whole(predictor: Predictor, seed: int, chunk: int) -> None:
    """Steps compute in float32, so that summaries and heads are given the same numbers."""
    stream, utterance = predictor.stream(), _utterance(seed)
    for start, end in _ends(chunk):
        stream.push({m: frames[start:end] for m, frames in utterance.items()})
        if end < 5:
            continue
        said, wanted = stream.predict().logits, _whole(predictor, _upto(utterance, end))
        np.testing.assert_allclose(said, wanted, atol=1e-4)


def test_something_computes_in_8_bits_but_no_step(predictor: Predictor) -> None:
    parts = predictor._shelf.parts()[0]
    for modality in Modality:
        encoder = parts.encoder(modality)
        assert not encoder.step.entry.quantised
        assert encoder.summary.entry.quantised
    assert parts.head(ALL_THREE).entry.quantised
