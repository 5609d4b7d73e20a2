"""A stream in 8 bits against its own graphs run whole: the same, but where a chunk has a scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundles import small_bundle

from ifmmin.runtime import Modality, Pattern, Predictor
from ifmmin.runtime.prediction import softmax_of_one

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
def test_recurrent_steps_are_exact_in_chunks_of_any_size(predictor: Predictor, chunk: int) -> None:
    """They stay in float; summaries and heads in 8 bits then are given the same numbers."""
    parts = predictor._shelf.parts()[0]
    assert not any(parts.encoder(Modality.of(m)).step.entry.quantised for m in "av")
    assert parts.encoder(Modality.A).summary.entry.quantised
    assert parts.head(ALL_THREE).entry.quantised
    stream, utterance = predictor.stream(), _utterance(1)
    for start, end in _ends(chunk):
        stream.push({m: utterance[m][start:end] for m in "av"})
        stream.set_text(utterance["t"][: max(5, end)])
        heard = {m: utterance[m][: max(5, end) if m == "t" else end] for m in utterance}
        said, wanted = stream.predict().logits, _whole(predictor, heard)
        np.testing.assert_allclose(said, wanted, atol=1e-5)


def test_products_in_8_bits_have_the_scale_of_their_chunk(
    predictor: Predictor, bundle: Path
) -> None:
    """In chunks a text's answer is another than of the whole, but no farther from float32's."""
    assert predictor._shelf.parts()[0].encoder(Modality.T).step.entry.quantised == ("rows",)
    full = Predictor(bundle, backend="onnxruntime-cpu", precision="fp32")
    apart, errors, errors_of_whole = [], [], []
    for seed in SEEDS:
        utterance = _utterance(seed)
        for chunk in CHUNKS:
            stream = predictor.stream()
            for start, end in _ends(chunk):
                stream.push({m: frames[start:end] for m, frames in utterance.items()})
                if end < 5:
                    continue
                heard, said = _upto(utterance, end), stream.predict().probabilities
                whole = softmax_of_one(_whole(predictor, heard))[1]
                exact = full.predict(heard).probabilities
                apart.append(np.abs(said - whole).max())
                errors.append(np.abs(said - exact).max())
                errors_of_whole.append(np.abs(whole - exact).max())
    assert 1e-3 < max(apart) < 0.1
    assert np.mean(errors) < 1.1 * np.mean(errors_of_whole)
