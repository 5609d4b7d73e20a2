"""Bytes of a stream: it goes on from them, under other bundles too; what is not its own is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_command import frames

from ifmmin.runtime import InputError, Predictor, Smoothing, StreamOptions
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.stream.snapshot import Identity, restore
from ifmmin.runtime.stream.stream import Stream

CPU = "onnxruntime-cpu"


@pytest.fixture
def narrow(make_bundle: Any) -> Path:
    """Of the same checkpoint as `bundle`, without the visual modality."""
    narrower: Path = make_bundle(("a", "t", "a_t"), shapes=("latency", "stream"))
    return narrower


def _talking(bundle: Path, letters: str, options: StreamOptions | None = None) -> Stream:
    stream = Predictor(bundle, backend=CPU).stream(options)
    stream.push({letter: frames(letter, 7) for letter in letters}, at=2.0)
    return stream


@pytest.mark.parametrize("options", [None, StreamOptions(window=2.0)])
@pytest.mark.parametrize("more", [True, False])
def test_a_stream_moves_to_more_and_to_fewer_modalities(
    bundle: Path, narrow: Path, options: StreamOptions | None, more: bool
) -> None:
    old, new = (narrow, bundle) if more else (bundle, narrow)
    stayed, moved = _talking(old, "at", options), _talking(new, "a", options)
    stayed.drop("t")
    moved.resume(stayed.snapshot())
    for stream in (stayed, moved):
        stream.push(a=frames("a", 4, 1), at=2.4)
        stream.restore("t")
    assert moved.pattern == stayed.pattern
    assert str(moved.pattern) == "a_t"
    np.testing.assert_allclose(moved.predict().logits, stayed.predict().logits, atol=1e-5)
    again = Predictor(old, backend=CPU).stream(options)
    again.resume(moved.snapshot())
    assert again.snapshot() == stayed.snapshot()
    if more:
        assert moved.predict().absent == {"v": "not given"}
        moved.push(v=frames("v", 5), at=2.5)
        assert str(moved.pattern) == "a_v_t"


def test_what_was_cleared_need_not_be_in_the_bundle(bundle: Path, narrow: Path) -> None:
    old, new = _talking(bundle, "avt"), _talking(narrow, "")
    old.clear("v")
    old.drop("v")
    new.resume(old.snapshot())
    np.testing.assert_allclose(new.predict().logits, old.predict().logits, atol=1e-5)


def _refuses(stream: Stream, content: Any, said: str) -> None:
    before = stream.snapshot()
    with pytest.raises(InputError, match=said):
        stream.resume(content)
    assert stream.snapshot() == before


def test_what_was_heard_has_to_be_in_the_bundle(bundle: Path, narrow: Path) -> None:
    said = r"has heard modality v, of which this bundle has no graphs.*\(it has a, t\)"
    _refuses(_talking(narrow, "at"), _talking(bundle, "av").snapshot(), said)


def test_states_of_another_size_are_told(bundle: Path) -> None:
    """As an exporter of another version may choose them for the same checkpoint."""
    heard, stream = _talking(bundle, "at"), _talking(bundle, "v")
    manifest = Bundle(bundle).manifest
    steps = [e for e in manifest.graphs if e.shape == "step"]
    states = {e.subject: [(s.name, s.initial_shape) for s in e.states] for e in steps}
    states["a"][0] = (states["a"][0][0], ("B", 9))
    other = Identity(manifest.checkpoint.sha256, {letter: states[letter] for letter in "avt"})
    before = stream.snapshot()
    said = r"modality a has states hidden \(B x 8\),.*, this bundle's hidden \(B x 9\)"
    with pytest.raises(InputError, match=said):
        restore(stream.state, heard.snapshot(), other, None)
    assert stream.snapshot() == before
    restore(stream.state, _talking(bundle, "vt").snapshot(), other, None)  # nothing is in the way
    assert stream.frames[Modality.T] == 7


def test_other_formats_are_told(bundle: Path) -> None:
    stream = _talking(bundle, "a")
    first, _, rest = stream.snapshot().partition(b"\n")
    assert first == b"ifmmin stream 2"
    for other, said in (
        (b"12", "has format 12, this version of ifmmin reads 2; update ifmmin here"),
        (b"1", "has format 1 of an earlier version, .* reads 2; resume it with"),
        *((bad, "these bytes are no snapshot") for bad in (b"0", b"", b"-1", b"x", b"9" * 30)),
    ):
        _refuses(stream, b"ifmmin stream " + other + b"\n" + rest, said)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damaged_bytes_are_told(predictor: Predictor, data: st.DataObject) -> None:
    stream = _spoken_to(predictor)
    content = bytearray(stream.snapshot())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    _refuses(stream, bytes(content), "snapshot")


def test_what_is_no_snapshot_of_it_is_told(predictor: Predictor, make_bundle: Any) -> None:
    contents: list[Any] = [b"", b"hello", "text", None, 3]
    for content in contents:
        _refuses(_spoken_to(predictor), content, "snapshot")
    foreign = Predictor(make_bundle(("a",), seed=1), backend=CPU).stream()
    foreign.push(a=frames("a", 6))
    _refuses(_spoken_to(predictor), foreign.snapshot(), "of another network")
    kept = _spoken_to(predictor, StreamOptions(window=2.0)).snapshot()
    _refuses(_spoken_to(predictor), kept, r"other options \(window 2.0, here None")


def _spoken_to(predictor: Predictor, options: StreamOptions | None = None) -> Stream:
    stream = predictor.stream(options)
    stream.push(a=frames("a", 6), t=frames("t", 2))
    return stream


def test_smoothing_goes_on(predictor: Predictor) -> None:
    options = StreamOptions(smoothing=Smoothing(half_life=3.0, margin=0.1))
    whole, first = _spoken_to(predictor, options), _spoken_to(predictor, options)
    for stream in (whole, first):
        stream.predict()
    second = predictor.stream(options)
    second.resume(first.snapshot())
    for seed in range(5):
        for stream in (whole, second):
            stream.push(a=frames("a", 6, seed))
        said, wanted = second.predict(), whole.predict()
        np.testing.assert_array_equal(said.probabilities, wanted.probabilities)
        assert said.label == wanted.label
