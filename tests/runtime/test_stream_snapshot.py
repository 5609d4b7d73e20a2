"""Bytes of a stream: what is not a snapshot, or of another network, is told and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_bundles import ALL, small_bundle

from ifmmin.runtime import InputError, Predictor, Smoothing, StreamOptions
from ifmmin.runtime.stream.stream import Stream

CPU = "onnxruntime-cpu"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory, make_network: Any) -> Predictor:
    bundle: Path = small_bundle(make_network, tmp_path_factory, ALL)
    return Predictor(bundle, backend=CPU)


def _frames(seed: int, count: int = 6) -> Any:
    return np.random.default_rng(seed).standard_normal((count, 5)).astype(np.float32)


def _talking(predictor: Predictor, options: StreamOptions | None = None) -> Stream:
    stream = predictor.stream(options)
    stream.push(a=_frames(0))
    stream.push(t=np.random.default_rng(1).standard_normal((2, 11)))
    return stream


def _require_unchanged(stream: Stream, before: Any) -> None:
    np.testing.assert_array_equal(stream.predict().logits, before)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damaged_bytes_are_told(predictor: Predictor, data: st.DataObject) -> None:
    stream = _talking(predictor)
    before, content = stream.predict().logits, bytearray(stream.snapshot())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(InputError, match="snapshot"):
        stream.resume(bytes(content))
    _require_unchanged(stream, before)


@pytest.mark.parametrize("content", [b"", b"hello", "text", None, 3])
def test_what_is_no_snapshot_is_told(predictor: Predictor, content: Any) -> None:
    stream = _talking(predictor)
    before = stream.predict().logits
    with pytest.raises(InputError, match="snapshot"):
        stream.resume(content)
    _require_unchanged(stream, before)


def test_another_network_is_told(
    predictor: Predictor, tmp_path_factory: pytest.TempPathFactory, make_network: Any
) -> None:
    other = small_bundle(make_network, tmp_path_factory, seed=3)
    foreign = Predictor(other, backend=CPU).stream()
    foreign.push(a=_frames(2))
    stream = _talking(predictor)
    before = stream.predict().logits
    with pytest.raises(InputError, match="of another network"):
        stream.resume(foreign.snapshot())
    _require_unchanged(stream, before)


def test_other_options_are_told(predictor: Predictor) -> None:
    kept = _talking(predictor, StreamOptions(window=2.0)).snapshot()
    stream = _talking(predictor)
    before = stream.predict().logits
    with pytest.raises(InputError, match=r"other options \(window 2.0, here None"):
        stream.resume(kept)
    _require_unchanged(stream, before)


def test_smoothing_goes_on(predictor: Predictor) -> None:
    options = StreamOptions(smoothing=Smoothing(half_life=3.0, margin=0.1))
    whole, first = _talking(predictor, options), _talking(predictor, options)
    for stream in (whole, first):
        stream.predict()
    second = predictor.stream(options)
    second.resume(first.snapshot())
    for seed in range(5):
        whole.push(a=_frames(seed))
        second.push(a=_frames(seed))
        said, wanted = second.predict(), whole.predict()
        np.testing.assert_array_equal(said.probabilities, wanted.probabilities)
        assert said.label == wanted.label
