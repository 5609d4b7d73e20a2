"""Events as lines of JSON: what each does to a stream, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifmmin.runtime import InputError, Predictor, StreamOptions
from ifmmin.runtime.cli.events import Event, EventProcessor, RealTime, read_event
from ifmmin.runtime.cli.stream import arriving, opened
from ifmmin.runtime.modality import Modality

A, V, T = ([[0.5] * 5] * 3), ([[0.25] * 7] * 2), ([[1.0] * 11] * 6)
ONE_OF_EACH: list[dict[str, Any]] = [
    {"event": "push", "a": A, "v": V, "t": None, "quality": {"a": 0.5, "v": None}},
    {"event": "set_text", "tokens": T},
    {"event": "clear", "modality": "v"},
    {"event": "drop", "modality": "a"},
    {"event": "restore", "modality": "a"},
    {"event": "tick", "at": 3.0},
    {"event": "reset"},
]


def _event(**fields: object) -> Event:
    return read_event(json.dumps(fields).encode())


@pytest.mark.parametrize("fields", ONE_OF_EACH, ids=lambda fields: str(fields["event"]))
def test_every_event_may_have_an_id_and_a_time(fields: dict[str, Any]) -> None:
    plain = _event(**fields)
    assert (plain.kind, plain.id) == (fields["event"], None)
    told = _event(**{**fields, "id": "x7", "at": 2})
    assert (told.kind, told.id, told.at) == (fields["event"], "x7", 2.0)
    assert type(told) is type(plain)
    with pytest.raises(InputError, match="unknown field `window`"):
        _event(**fields, window=2)


def test_events_do_to_a_stream_what_its_methods_do(predictor: Predictor) -> None:
    here, there = predictor.stream(), predictor.stream()
    here.push(a=np.array(A), v=np.array(V), quality={"a": 0.5})
    here.set_text(np.array(T))
    here.clear("v")
    here.drop("a")
    here.restore("a")
    here.predict(at=3.0)
    for fields in ONE_OF_EACH[:-1]:
        _event(**fields).apply(there)
    there.predict(at=3.0)
    assert there.snapshot() == here.snapshot()
    assert there.frames == {"a": 3, "v": 0, "t": 6}
    _event(**ONE_OF_EACH[-1]).apply(there)
    assert there.snapshot() == predictor.stream().snapshot() != here.snapshot()


def test_null_is_a_number_that_is_not_known(predictor: Predictor) -> None:
    stream = predictor.stream()
    with pytest.raises(InputError, match="nan at frame 1, column 0"):
        _event(event="push", a=[[1, 2, 3, 4, 5], [None, 2, 3, 4, 5]]).apply(stream)
    _event(event="push", a=[[None] * 5]).apply(stream)
    assert stream.frames[Modality.A] == 0
    assert stream.state.channels[Modality.A].why_absent == "all frames are NaN"


@pytest.mark.parametrize("nothing", [None, []])
def test_no_tokens_clear_the_text(predictor: Predictor, nothing: object) -> None:
    stream = predictor.stream()
    _event(event="push", t=T).apply(stream)
    assert stream.frames[Modality.T] == 6
    _event(event="set_text", tokens=nothing).apply(stream)
    assert stream.frames[Modality.T] == 0


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("{", "truncated; wanted an object such as"),
        ("[]", "Expected `object`"),
        ("{}", "missing required field `event`"),
        ('{"event": "shout"}', "Invalid value 'shout' - at `$.event`"),
        ('{"event": "shout"}', "events are push, set_text, clear, drop, restore, reset, tick"),
        ('{"event": "push", "b": [[1]]}', "unknown field `b`"),
        ('{"event": "push", "a": [[NaN]]}', "write null for it"),
        ('{"event": "push", "a": [1]}', "Expected `array`, got `int` - at `$.a[0]`"),
        ('{"event": "push", "at": "noon"}', "Expected `float | null`, got `str` - at `$.at`"),
        ('{"event": "push", "at": 1e999}', "out of range - at `$.at`"),
        ('{"event": "push", "quality": {"x": 1}}', "unknown field `x` - at `$.quality`"),
        ('{"event": "set_text"}', "missing required field `tokens`"),
        ('{"event": "clear"}', "missing required field `modality`"),
        ('{"event": "reset", "modality": "a"}', "unknown field `modality`"),
        ('{"event": "push", "at": true}', "Expected `float | null`, got `bool`"),
        ('{"event": "set_text", "tokens": 5}', "Expected `array | null`, got `int`"),
        ('{"event": "push", "quality": 0.5}', "Expected `object | null`, got `float`"),
        ('{"event": "push", "quality": {"a": true}}', "Expected `float | null`, got `bool`"),
        ('{"event": "push", "a": {"0": [[1]]}}', "Expected `array | null`, got `object`"),
        ('{"event": "drop", "modality": null}', "Expected `str`, got `null`"),
    ],
)
def test_what_is_no_event(line: str, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        read_event(line.encode())
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"event": "push", "a": [[1, 2], [1]]}, "frame 1 has 1 numbers, frame 0 has 2"),
        ({"event": "push", "a": [[1]]}, r"got shape \(1, 1\), wanted \(frames, 5\)"),
        ({"event": "set_text", "tokens": [[1]]}, r"wanted \(frames, 11\)"),
        ({"event": "push", "at": 0.5, "a": A}, "frames of 0.5 s came after those of 1 s"),
        ({"event": "clear", "modality": "x"}, "unknown modality 'x'"),
        ({"event": "drop", "modality": "x"}, "unknown modality 'x'"),
        ({"event": "restore", "modality": "av"}, "unknown modality 'av'"),
        ({"event": "tick"}, "a tick without `at` says nothing"),
    ],
)
def test_refusals_change_nothing(predictor: Predictor, fields: dict[str, Any], wanted: str) -> None:
    stream = predictor.stream()
    processor = EventProcessor(stream, predictor.labels, 0.0)
    processor.answer(1, _event(event="push", a=A, at=1.0))
    before = stream.snapshot()
    with pytest.raises(InputError, match=wanted):
        processor.answer(2, _event(**fields))
    assert stream.snapshot() == before


def test_a_clock_and_recorded_times_do_not_mix(predictor: Predictor) -> None:
    now = 4.0
    stream = predictor.stream(StreamOptions(clock=lambda: now, stale_after={Modality.A: 1.0}))
    processor = EventProcessor(stream, predictor.labels, 0.0)
    assert processor.answer(1, _event(event="push", a=A, v=V)).at == 4.0
    with pytest.raises(InputError, match="the clock stamps what arrives"):
        processor.answer(2, _event(event="push", a=A, at=1.0))
    now = 5.5
    update = processor.answer(3, _event(event="tick"))
    assert (update.at, update.absent[Modality.A]) == (5.5, "silent for 1.5 s, more than 1")


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["event", "at", "a", "tokens", "modality", "id", "quality"]),
            inner | st.sampled_from([f["event"] for f in ONE_OF_EACH]),
            max_size=4,
        )
    ),
)


@given(st.binary(max_size=60) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_an_input_error(garbage: bytes) -> None:
    with contextlib.suppress(InputError):
        read_event(garbage)


def test_deeply_nested_garbage(tmp_path: Path) -> None:
    for text in (b"[" * 100_000, b'{"event":"push","a":' + b"[" * 100_000):
        with pytest.raises(InputError):
            read_event(text)
    for place, wanted in ((tmp_path / "none", "no input at"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=wanted), opened(str(place)):
            pass


class _Clock:
    """A clock that only sleeping moves on, and that notes for how long."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now += seconds


def test_real_time_keeps_the_distances_of_a_session() -> None:
    clock = _Clock()
    wait = RealTime(clock, clock.sleep)
    for at in (7.0, 7.5, 9.0):
        wait(_event(event="tick", at=at))
    assert clock.slept == [0.5, 1.5]
    clock.now += 0.75  # an answer that took long does not delay what follows
    wait(_event(event="push", a=A, at=10.0))
    wait(_event(event="clear", modality="a"))
    wait(_event(event="push", a=A, at=8.0))  # late: not held back
    assert clock.slept == [0.5, 1.5, 0.25]
    wait(_event(event="reset", at=11.0))
    wait(_event(event="tick", at=11.5))  # times go on
    wait(_event(event="reset"))
    wait(_event(event="tick", at=2.0))  # times begin anew
    wait(_event(event="tick", at=3.0))
    assert clock.slept == [0.5, 1.5, 0.25, 1.0, 0.5, 1.0]


@pytest.mark.parametrize("fields", [ONE_OF_EACH[0], ONE_OF_EACH[1], {"event": "tick"}])
def test_real_time_needs_times(fields: dict[str, Any]) -> None:
    clock = _Clock()
    with pytest.raises(InputError, match="without `at` cannot be replayed in real time"):
        RealTime(clock, clock.sleep)(_event(**fields))


def test_lines_arrive_with_silences_between(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sent, heard = threading.Event(), list[Any]()

    def speak() -> None:
        with path.open("wb", buffering=0) as pipe:
            pipe.write(b"one\n\n  \nfo")
            sent.wait(60)
            pipe.write(b"ur" + b"!" * 200_000 + b"\nlast")

    speaker = threading.Thread(target=speak)
    speaker.start()
    with opened(str(path)) as file:
        for progress in arriving(file, str(path), every=0.05):
            heard.append(progress)
            if progress is None:
                sent.set()
    speaker.join()
    assert None in heard
    numbers = [progress for progress in heard if progress is not None]
    assert numbers == [(1, b"one"), (4, b"four" + b"!" * 200_000), (5, b"last")]
