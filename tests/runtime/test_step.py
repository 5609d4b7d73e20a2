"""Streams of a modality: chunks make no difference, and streams do not mix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundles import small_bundle

from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.batch import pad_batch
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.step import ModalityStream

WIDTHS = {"a": 5, "t": 11}


@pytest.fixture
def bundle(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made: Path = small_bundle(make_network, tmp_path_factory)
    return Bundle(made)


def _stream(bundle: Bundle, letter: str, streams: int = 1) -> ModalityStream:
    (entry,) = bundle.find("step", Modality.of(letter))
    return ModalityStream(entry, OnnxRuntimeCpu().load(bundle.graph(entry)), streams)


def _frames(letter: str, streams: int = 1) -> Any:
    rng = np.random.default_rng(3)
    return rng.standard_normal((streams, 20, WIDTHS[letter])).astype(np.float32)


@pytest.mark.parametrize("letter", WIDTHS)
def test_chunks_make_no_difference(bundle: Bundle, letter: str) -> None:
    frames = _frames(letter)
    whole = _stream(bundle, letter).push(frames)
    stream = _stream(bundle, letter)
    pooled = [stream.push(chunk) for chunk in np.split(frames, [5, 6, 9, 19], axis=1)]
    np.testing.assert_allclose(pooled[-1], whole, atol=1e-5)
    assert not np.allclose(_stream(bundle, letter).push(frames[:, ::-1]), whole, atol=1e-3)


@pytest.mark.parametrize("letter", WIDTHS)
def test_streams_do_not_mix(bundle: Bundle, letter: str) -> None:
    together, frames = _stream(bundle, letter, 3), _frames(letter, 3)
    together.push(frames[:, :8])
    pooled = together.push(frames[:, 8:])
    for number in range(3):
        alone = _stream(bundle, letter)
        alone.push(frames[number : number + 1, :8])
        own = alone.push(frames[number : number + 1, 8:])
        np.testing.assert_allclose(pooled[number : number + 1], own, atol=1e-5)


def test_a_chunk_that_fails_changes_nothing(bundle: Bundle) -> None:
    stream, frames = _stream(bundle, "t"), _frames("t")
    with pytest.raises(Exception, match="Conv"):
        stream.push(frames[:, :2])  # fewer than the minimum of 5
    np.testing.assert_array_equal(stream.push(frames), _stream(bundle, "t").push(frames))


def test_batches_are_padded_with_what_one_likes() -> None:
    rng = np.random.default_rng(0)
    utterances = [{Modality.A: rng.random((n, 2)).astype(np.float32)} for n in (3, 1)]
    inputs = pad_batch(utterances, filler=7.0)
    assert list(inputs) == ["a", "a_lengths"]
    assert inputs["a_lengths"].tolist() == [3, 1]
    assert inputs["a_lengths"].dtype == np.int64
    np.testing.assert_array_equal(inputs["a"][0], utterances[0][Modality.A])
    np.testing.assert_array_equal(inputs["a"][1, 1:], np.full((2, 2), 7.0))
