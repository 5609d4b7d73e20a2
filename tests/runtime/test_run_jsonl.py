"""`ifmmin-run` with lines of JSON, in files and as a stream."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_command import BACKEND, arrays, line, npz, run, run_bundle

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.inputs_jsonl import read_line


@pytest.fixture(scope="module")
def bundle(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_bundle(make_network, tmp_path_factory)


def test_every_kind_of_input_gives_the_same_answer(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").write_text(f"{line('at', id='x')}\n\n{line('at', t=None)}\n")
    folder = tmp_path / "clips"
    folder.mkdir()
    npz(folder / "inside.npz", **arrays("at"))
    alone = npz(tmp_path / "alone.npz", **arrays("at"))
    inputs = (tmp_path / "clips.jsonl", folder, alone, "-")
    ran = run(bundle, *inputs, "--format", "json", stdin=[line("at", id=7)])
    assert ran.code == 0
    assert [a["input"] for a in ran.answers] == ["x", "clips.jsonl:3", "inside", "alone", "7"]
    assert [a["pattern"] for a in ran.answers] == ["a_t", "a", "a_t", "a_t", "a_t"]
    assert ran.answers[1]["absent"] == {"v": "not given", "t": "not given"}
    for index in (2, 3, 4):
        assert ran.answers[index]["logits"] == ran.answers[0]["logits"]


def test_a_line_is_answered_before_the_next_is_sent(bundle: Path) -> None:
    command = [sys.executable, "-m", "ifmmin.runtime.cli", str(bundle), "-", "--format", "json"]
    with subprocess.Popen(
        [*command, *BACKEND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        for index, sent in enumerate([line("a", 0, id="0"), "garbage", line("v", 2, id="2")]):
            process.stdin.write(sent + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert answer["input"] == ("stdin:2" if index == 1 else str(index))
            assert ("error" in answer) == (index == 1)
        process.stdin.close()
        assert process.stdout.read() == ""
        watchdog.cancel()
    assert process.returncode == 1


def test_null_in_a_frame_is_nan(bundle: Path) -> None:
    frames: list[list[float | None]] = arrays("a")["a"].tolist()
    frames[3][2] = None
    sent = [json.dumps({"id": "gap", "a": frames}), json.dumps({"a": [[None] * 5], "v": [[1] * 7]})]
    ran = run(bundle, "-", "--format", "json", "--nan", "drop", stdin=sent)
    assert ran.code == 0
    assert ran.answers[0]["dropped_frames"] == {"a": 1}
    assert ran.answers[1]["absent"]["a"] == "all frames are NaN"
    assert ran.answers[1]["pattern"] == "v"
    refused = run(bundle, "-", stdin=sent)
    assert refused.code == 1
    assert "stdin, line 1: modality a (acoustic): nan at frame 3, column 2" in refused.err


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{", "Input data was truncated"),
        ('{"a": [[NaN]]}', "write null for it"),
        ('{"b": []}', "unknown field `b`"),
        ('{"a": [0.5, 1]}', "Expected `array`, got `float` - at `$.a[0]`"),
        ('{"a": [["x"]]}', "got `str`"),
        ('{"a": [[1, 2], [1]]}', "frame 1 has 1 numbers, frame 0 has 2"),
        ('{"quality": {"x": 1}}', "unknown field `x` - at `$.quality`"),
        ("[]", "wanted an object such as"),
        ('{"id": "none of it"}', "no modality is present (a: not given; v: not given"),
        ('{"a": [[1e300, 0, 0, 0, 0]]}', "inf at frame 0, column 0"),
        ('{"a": [[1]]}', "got shape (1, 1), wanted (frames, 5)"),
        ('{"t": [[0,0,0,0,0,0,0,0,0,0,0]]}', "graph of t"),
    ],
)
def test_a_broken_line_stops_no_other(bundle: Path, tmp_path: Path, text: str, wanted: str) -> None:
    path = tmp_path / "clips.jsonl"
    path.write_text(f"{line('a', id='good')}\n{text}\n{line('v', id='fine')}\n")
    ran = run(bundle, path, "--format", "csv")
    assert ran.code == 1
    assert [row.split(",")[0] for row in ran.out.splitlines()] == ["input", "good", "fine"]
    first, last = ran.err.splitlines()
    assert first.startswith(f"error: {path}, line 2: ")
    assert wanted in first
    assert last == "1 of 3 inputs could not be answered"


def test_nothing_to_read(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n \n")
    assert "is empty" in run(bundle, tmp_path / "empty.jsonl").err
    for sent, lines in (([], 1), (["{"], 2), (["{", "["], 3)):
        ran = run(bundle, "-", stdin=sent)
        assert ran.code == 2
        assert ran.out == ""
        assert len(ran.err.splitlines()) == lines
    one = tmp_path / "one.jsonl"
    one.write_text("{}\n")
    ran = run(bundle, one)
    assert (ran.code, ran.err.count("\n")) == (2, 1)


_NUMBERS = st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False)
_FRAMES = st.integers(1, 4).flatmap(
    lambda dim: st.lists(st.lists(_NUMBERS, min_size=dim, max_size=dim), max_size=5)
)
_LINES = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text() | st.integers(-(2**63), 2**63 - 1),
        **dict.fromkeys("avt", st.none() | _FRAMES),
        "quality": st.dictionaries(st.sampled_from("avt"), st.floats(0, 1)),
    },
)


@given(_LINES)
def test_lines_round_trip(content: dict[str, Any]) -> None:
    clip = read_line(json.dumps(content, ensure_ascii=True).encode(), "default")
    assert clip.name == str(content.get("id", "default"))
    assert clip.quality == content.get("quality", {})
    given = {letter for letter in "avt" if content.get(letter) is not None}
    assert set(clip.utterance) == given
    for letter, array in clip.utterance.items():
        np.testing.assert_array_equal(array, np.array(content[letter], dtype=np.float64))


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "v", "t", "id", "quality", "x"]), inner, max_size=4)
    ),
)
_GARBAGE = st.binary(max_size=60) | _JSON.map(lambda value: json.dumps(value).encode())


@given(_GARBAGE)
def test_garbage_is_an_input_error(garbage: bytes) -> None:
    with contextlib.suppress(InputError):
        read_line(garbage, "x")


def test_deeply_nested_garbage() -> None:
    for text in (b"[" * 100_000, b'{"a":' * 100_000, b'{"a":' + b"[" * 100_000):
        with pytest.raises(InputError):
            read_line(text, "x")


@settings(deadline=None, max_examples=40)
@given(st.lists(_GARBAGE, max_size=3))
def test_garbage_never_ends_a_stream(bundle: Path, garbage: list[bytes]) -> None:
    sent = b"\n".join([*garbage, line("a", id="last").encode()])
    ran = run(bundle, "-", "--format", "json", stdin=sent)
    assert ran.code in (0, 1)
    assert ran.answers[-1]["input"] == "last"
    assert all(("error" in a) != ("label" in a) for a in ran.answers)
