"""A snapshot under another bundle of the same checkpoint: with other modalities, made otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundles import ALL, small_bundle
from stream_process import frames

from ifmmin.runtime import InputError, Predictor, StreamOptions
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.stream.snapshot import Identity, restore
from ifmmin.runtime.stream.stream import Stream

CPU = "onnxruntime-cpu"
NARROW = ("a", "t", "a_t")


@pytest.fixture(scope="module")
def wide(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(make_network, tmp_path_factory, ALL, shapes=("latency", "stream"))


@pytest.fixture(scope="module")
def narrow(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same checkpoint, without the visual modality."""
    return small_bundle(make_network, tmp_path_factory, NARROW, shapes=("latency", "stream"))


def _talking(bundle: Path, letters: str, options: StreamOptions | None = None) -> Stream:
    stream = Predictor(bundle, backend=CPU).stream(options)
    stream.push({letter: frames(letter, 7) for letter in letters}, at=2.0)
    return stream


@pytest.mark.parametrize("options", [None, StreamOptions(window=2.0)])
@pytest.mark.parametrize("widens", [True, False])
def test_a_stream_moves_to_more_and_to_fewer_modalities(
    wide: Path, narrow: Path, options: StreamOptions | None, widens: bool
) -> None:
    old, new = (narrow, wide) if widens else (wide, narrow)
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
    if widens:
        assert moved.predict().absent == {"v": "not given"}
        moved.push(v=frames("v", 5), at=2.5)
        assert str(moved.pattern) == "a_v_t"


def test_what_was_cleared_need_not_be_in_the_bundle(wide: Path, narrow: Path) -> None:
    old, new = _talking(wide, "avt"), _talking(narrow, "")
    old.clear("v")
    old.drop("v")
    new.resume(old.snapshot())
    np.testing.assert_allclose(new.predict().logits, old.predict().logits, atol=1e-5)


def _refuses(stream: Stream, content: bytes, said: str) -> None:
    before = stream.snapshot()
    with pytest.raises(InputError, match=said):
        stream.resume(content)
    assert stream.snapshot() == before


def test_what_was_heard_has_to_be_in_the_bundle(wide: Path, narrow: Path) -> None:
    said = r"has heard modality v, of which this bundle has no graphs.*\(it has a, t\)"
    _refuses(_talking(narrow, "at"), _talking(wide, "av").snapshot(), said)


def test_states_of_another_size_are_told(wide: Path) -> None:
    """As an exporter of another version may choose them for the same checkpoint."""
    heard, stream = _talking(wide, "at"), _talking(wide, "v")
    own = stream._engine.identity
    (name, (rows, size)), *others = own.states["a"]
    assert isinstance(size, int)
    other = Identity(own.checkpoint, {**own.states, "a": [(name, (rows, size + 1)), *others]})
    before = stream.snapshot()
    said = r"modality a has states hidden \(B x 8\),.*, this bundle's hidden \(B x 9\)"
    with pytest.raises(InputError, match=said):
        restore(stream.session, heard.snapshot(), other, None)
    assert stream.snapshot() == before
    restore(stream.session, _talking(wide, "vt").snapshot(), other, None)  # nothing is in the way
    assert stream.frames[Modality.T] == 7


def test_other_formats_are_told(wide: Path) -> None:
    stream = _talking(wide, "a")
    first, _, rest = stream.snapshot().partition(b"\n")
    assert first == b"ifmmin stream 2"
    for other, said in (
        (b"12", "has format 12, this version of ifmmin reads 2; update ifmmin here"),
        (
            b"1",
            "has format 1 of an earlier version, .* reads 2; resume it with",
        ),
        *((bad, "these bytes are no snapshot") for bad in (b"0", b"", b"-1", b"x", b"9" * 30)),
    ):
        _refuses(stream, b"ifmmin stream " + other + b"\n" + rest, said)
