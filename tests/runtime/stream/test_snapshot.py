"""Bytes of a stream: it goes on from them, under other bundles too; what is not its own is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_command import frames
from safetensors.numpy import save

from ifmmin.runtime import InputError, Predictor, Smoothing, StreamOptions
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.stream.snapshot import Identity, restore, unpack
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
    said = r"has heard modality v, of which this bundle has no graphs.*\(it has a, t\)"
    _refuses(_talking(narrow, "at"), _talking(bundle, "av").snapshot(), said)


def _refuses(stream: Stream, content: Any, said: str) -> None:
    before = stream.snapshot()
    with pytest.raises(InputError, match=said):
        stream.resume(content)
    assert stream.snapshot() == before


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
        restore(stream.state, heard.snapshot(), other, 4, None)
    assert stream.snapshot() == before
    restore(
        stream.state, _talking(bundle, "vt").snapshot(), other, 4, None
    )  # nothing is in the way
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


NAN, INF = float("nan"), float("inf")
Lie = Callable[[Any, dict[str, Any]], object]


def _set(path: str, value: Any) -> Lie:
    """Another value of a field of the record, such as `channels.a.frames`."""

    def lie(record: Any, tensors: dict[str, Any]) -> None:
        *way, last = path.split(".")
        for name in way:
            record = record[int(name)] if isinstance(record, list) else record[name]
        record[last] = value

    return lie


def _put(name: str, change: Callable[[Any], Any]) -> Lie:
    return lambda record, tensors: tensors.__setitem__(name, change(tensors[name]))


def _repeat(record: Any, tensors: dict[str, Any]) -> None:
    record["channels"]["a"]["encoders"] *= 2
    tensors |= {k.replace("a/0/", "a/1/"): x for k, x in tensors.items() if k.startswith("a/0/")}


WRONG: tuple[Any, ...] = ("seven", 1.5, [], {}, None, True, -1, 2**60)
WRONG_PARTS: tuple[Any, ...] = ("seven", 5, [1, "x"], [[]], {"b": 1})
NUMBERS = (
    "channels.a.frames", "channels.a.dropped_frames", "channels.a.late_frames",
    "channels.a.encoders.0.frames", "smoother.label", "smoother.leads",
)  # fmt: skip
PARTS = (
    "channels", "channels.a", "channels.a.encoders", "smoother.probabilities", "states", "states.a",
    "checkpoint",
)  # fmt: skip
ARRAYS: dict[str, Callable[[Any], Any]] = {
    "in float64": lambda x: x.astype(np.float64), "integers": lambda x: x.astype(np.int64),
    "flat": np.ravel, "wider": lambda x: np.concatenate([x, x], axis=-1),
    "one number": lambda x: x.ravel()[:1].reshape(()), "empty": lambda x: x[:, :0],
    "NaN": lambda x: x * np.float32(NAN), "infinite": lambda x: x + np.float32(INF),
}  # fmt: skip
LIES: dict[str, Lie] = {
    **{f"{field} {value!r}": _set(field, value) for field in NUMBERS
       for value in WRONG},
    **{f"{field} {value!r}": _set(field, value) for field in PARTS
       for value in WRONG_PARTS},
    "an origin in words": _set("origin", "noon"),
    "another modality": lambda record, _: record["channels"].update(b=record["channels"]["a"]),
    "no modality that was heard": lambda record, _: record["channels"].pop("a"),
    "no smoothing": _set("smoother", None),
    "smoothed classes": _set("smoother.probabilities", [0.5, 0.5]),
    "smoothed shares": _set("smoother.probabilities", [9.0, -8.0, 0.0, 0.0]),
    "a class beyond": _set("smoother.label", 4),
    "a rival beyond": _set("smoother.rival", 4),
    "encoders out of order": _repeat,
    "no pooled": lambda _, tensors: tensors.pop("a/0/pooled"),
    "no state": lambda _, tensors: tensors.pop("a/0/state1"),
    "one state more": lambda _, tensors: tensors.update({"a/0/state9": tensors["a/0/state1"]}),
    "early and kept": lambda _, tensors: tensors.update({"a/0/early": tensors["t/0/early"]}),
    "neither": lambda _, tensors: tensors.pop("t/0/early"),
    "too many early": _put("t/0/early", lambda x: np.repeat(x, 9, axis=0)),
    "no early": _put("t/0/early", lambda x: x[:0]),
    **{f"{name} {kind}": _put(name, change) for kind, change in ARRAYS.items()
       for name in ("a/0/state0", "a/0/pooled", "t/0/early", "t/0/pooled")},
}  # fmt: skip


def test_what_lies_inside_a_right_checksum_is_told(predictor: Predictor) -> None:
    stream = _spoken_to(predictor, StreamOptions(smoothing=Smoothing()))
    stream.predict()
    content = stream.snapshot()
    believed, changed, messages = list[str](), list[str](), list[str]()
    for name, lie in LIES.items():
        told, tensors = unpack(content)
        record = msgspec.to_builtins(told)
        lie(record, tensors)
        body = save(tensors, {"stream": json.dumps(record)})
        try:
            stream.resume(b"ifmmin stream 2\n" + hashlib.sha256(body).digest() + body)
            believed.append(name)
        except InputError as error:
            messages.append(str(error))
        changed += [name] if stream.snapshot() != content else []
        stream.resume(content)
    assert believed == []
    assert changed == []
    assert not any("\n" in message for message in messages)


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
