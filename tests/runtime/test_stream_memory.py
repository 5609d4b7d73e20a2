"""What a stream holds after an hour is what it held after a minute, whatever it heard it with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundles import small_bundle

from ifmmin.runtime import Modality, Predictor, StreamOptions
from ifmmin.runtime.stream.stream import Stream

DIMS = {"a": 5, "v": 7, "t": 11}
MINUTE = 600
"""Frames of the small networks."""
OVERHEAD = 112
"""Bytes of an array beside its numbers."""
SLACK = 2000
"""Bytes: what a summary was made of may be a copy of what is pooled now, or the same array. Of 59
minutes any leak is more, if only an array of one number were kept for each."""
PAST: dict[str, StreamOptions] = {
    "all": StreamOptions(),
    "window": StreamOptions(window=10.0, hop=5.0),
}


def _predictor(factory: pytest.TempPathFactory, make_network: Any, kind: str) -> Predictor:
    bundle: Path = small_bundle(
        make_network, factory, ["a_v_t"], shapes=("latency", "stream"), kind=kind
    )
    return Predictor(bundle, backend="onnxruntime-cpu")


def _owner(array: Any) -> Any:
    """Whose memory an array shows: a view of one row keeps all of it."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _arrays(thing: Any, seen: dict[int, Any]) -> None:
    """Every array that can be reached from a thing, by the identity of its memory's owner."""
    if isinstance(thing, np.ndarray):
        owner = _owner(thing)
        seen[id(owner)] = owner
    elif isinstance(thing, dict):
        _arrays([*thing.keys(), *thing.values()], seen)
    elif isinstance(thing, (list, tuple)):
        for part in thing:
            _arrays(part, seen)
    elif type(thing).__module__.startswith("ifmmin.runtime.stream") and id(thing) not in seen:
        seen[id(thing)] = None
        _arrays(getattr(thing, "__dict__", {}), seen)


def _held(*streams: Stream) -> int:
    """Bytes of the arrays that streams keep alive. Their graphs are shared and do not count."""
    seen: dict[int, Any] = {}
    _arrays([stream.session for stream in streams], seen)
    arrays = [array for array in seen.values() if array is not None]
    return sum(array.nbytes + OVERHEAD for array in arrays)


def _talk(stream: Stream, frames: int, chunk: int) -> None:
    rng = np.random.default_rng(frames)
    drawn = {m: rng.standard_normal((chunk, d)).astype(np.float32) for m, d in DIMS.items()}
    for _ in range(frames // chunk):
        stream.push(drawn)
        stream.predict()


@pytest.mark.parametrize("past", PAST)
@pytest.mark.parametrize("kind", ["if-mmin", "statistics"])
def test_an_hour_and_a_minute_hold_the_same(
    kind: str, past: str, tmp_path_factory: pytest.TempPathFactory, make_network: Any
) -> None:
    predictor = _predictor(tmp_path_factory, make_network, kind)
    for chunk in (MINUTE, 50):
        stream = predictor.stream(PAST[past])
        _talk(stream, MINUTE, chunk)
        after_a_minute = _held(stream)
        assert after_a_minute > SLACK
        _talk(stream, 59 * MINUTE, chunk)
        assert _held(stream) < after_a_minute + SLACK
        # One by one as well, from where it is.
        _talk(stream, 100, 1)
        assert _held(stream) < after_a_minute + SLACK


def test_a_group_holds_no_more_than_single_streams_do(
    tmp_path_factory: pytest.TempPathFactory, make_network: Any
) -> None:
    """Streams that go on together share what they hold; who falls silent has a copy of its own."""
    predictor = _predictor(tmp_path_factory, make_network, "if-mmin")
    alone, group = predictor.stream(), predictor.streams(64)
    for _ in range(3):
        frames = {m: np.ones((9, d), np.float32) for m, d in DIMS.items()}
        alone.push(frames)
        alone.predict()
        for stream in group:
            stream.push(frames)
        group.update()
    assert _held(*group) < 64 * (_held(alone) + SLACK)
    assert _held(group[0]) > _held(alone) + SLACK
    for number in range(1, 64):
        group.push(number, {m: np.ones((9, d), np.float32) for m, d in DIMS.items()})
    group.update()
    assert _held(group[0]) < _held(alone) + SLACK
    assert _held(*group) < 64 * (_held(alone) + SLACK)


def test_a_leak_would_be_seen(tmp_path_factory: pytest.TempPathFactory, make_network: Any) -> None:
    """The control: a view of a row of something large, somewhere in a session."""
    predictor = _predictor(tmp_path_factory, make_network, "if-mmin")
    stream = predictor.stream()
    _talk(stream, 20, 20)
    before = _held(stream)
    channel = stream.session.channels[Modality.A]
    (lane,) = channel.lanes
    large = np.zeros((10_000, 8), np.float32)
    channel.lanes = (lane._replace(pooled=large[:1]),)
    assert _held(stream) > before + 300_000
