"""`ifmmin-run`: lines of JSON, what it shows and saves, broken inputs, terminals, interrupts."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_command import arrays, command, conversation, line, npz, refused, run, run_bundle

from ifmmin.runtime.cli.readers import find_inputs, read_line
from ifmmin.runtime.errors import InputError

bundle = pytest.fixture(run_bundle, scope="module")


def test_broken_files_stop_no_others(bundle: Path, tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", **arrays("a"))
    (tmp_path / "b.npz").write_bytes(b"no archive")
    npz(tmp_path / "c.npz", a=np.zeros((3, 4)))
    npz(tmp_path / "d.npz", **arrays("t"))
    np.save(tmp_path / "e", arrays("a")["a"])
    (tmp_path / "e.npy").rename(tmp_path / "e.npz")
    npz(tmp_path / "f.npz", **arrays("av"))
    ran = run(bundle, tmp_path, "--format", "json")
    assert ran.code == 1
    assert [("error" in answer) for answer in ran.answers] == [False, True, True, True, True, False]
    *lines, last = ran.err.splitlines()
    unread = "cannot be read as .npz"
    wanted = (unread, "wanted (frames, 5)", "graph of t", unread)
    for text, letter, part in zip(lines, "bcde", wanted, strict=True):
        assert text.startswith(f"error: {tmp_path / letter}.npz: ")
        assert part in text
    assert last == "4 of 6 inputs could not be answered"


def test_a_bundle_at_fault_stops_at_once(bundle: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (damaged / "a.latency.fp32.onnx").write_bytes(b"")
    ran = run(damaged, "-", stdin=[line("a"), line("a")])
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "is damaged" in ran.err


_SOUND = io.BytesIO()
np.savez_compressed(_SOUND, **arrays("at"))  # type: ignore[arg-type]


@settings(max_examples=200)
@given(st.data())
def test_damaged_archives(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(_SOUND.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    (item,) = find_inputs([str(path)]).items()
    with contextlib.suppress(InputError):
        assert set(item.read().utterance) <= {"a", "t"}


JSON = ("-", "--format", "json")


def test_ctrl_c_leaves_nothing_half_written(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    out.write_text("before")
    with conversation(bundle, "--save", out, inputs=JSON) as talk:
        assert "label" in talk.ask(line("a"))
        talk.process.send_signal(signal.SIGINT)
        assert talk.end() == (130, "", "interrupted; nothing was left half written\n")
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]


def test_a_reader_that_goes_away_is_no_error(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").write_text(f"{line('a')}\n" * 3000)
    out, inputs = tmp_path / "answers.csv", (tmp_path / "clips.jsonl", *JSON[1:])
    with conversation(bundle, "--save", out, inputs=inputs) as talk:
        talk.hear()
        code, err = talk.turn_away()
    assert code == 128 + signal.SIGPIPE
    assert "rror" not in err
    assert not out.exists()


def _on_a_terminal(bundle: Path, clips: Path, *words: str) -> tuple[bytes, bytes]:
    """Standard output; and what a terminal shows, as which the other one of the two stands."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": theirs}
    if not words:
        streams = {"stdout": theirs}
    done = subprocess.run(command(bundle, clips, *words), **streams, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 20)
    os.close(ours)
    return done.stdout, shown


def test_answers_stay_on_standard_output_beside_a_bar(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").write_text(f"{line('a')}\n" * 60)
    out, bar = _on_a_terminal(bundle, tmp_path / "clips.jsonl", *JSON[1:])
    assert out.count(b'"label"') == 60
    assert b"60/60" in bar
    assert b'"label"' not in bar
    (tmp_path / "clips.jsonl").write_text(line("a", id="[/x] \x1b[2J") + "\n")
    _, shown = _on_a_terminal(bundle, tmp_path / "clips.jsonl")
    assert rb"[/x] \x1b[2J" in shown


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
    with conversation(bundle, inputs=JSON) as talk:
        for index, sent in enumerate([line("a", 0, id="0"), "garbage", line("v", 2, id="2")]):
            answer = talk.ask(sent)
            assert answer["input"] == ("stdin:2" if index == 1 else str(index))
            assert ("error" in answer) == (index == 1)
        code, out, _ = talk.end()
    assert (code, out) == (1, "")


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
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", lines)
    one = tmp_path / "one.jsonl"
    one.write_text("{}\n")
    refused(bundle, one)


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


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return npz(tmp_path / "clip.npz", **arrays("a"))


def _csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_top_k_ranks_the_best(bundle: Path, clip: Path) -> None:
    (answer,) = run(bundle, clip, "--format", "json", "--top-k", 2).answers
    shares = answer["probabilities"]
    best = sorted(shares, key=shares.__getitem__, reverse=True)[:2]
    assert answer["top"] == [{"label": b, "probability": shares[b]} for b in best]
    assert answer["label"] == best[0]
    (row,) = _csv(run(bundle, clip, "--format", "csv", "--top-k", 2).out)
    assert (row["top1"], row["top2"]) == tuple(best)
    assert float(row["probability1"]) == shares[best[0]]
    table = run(bundle, clip, "--top-k", 2).out
    assert f"| {best[0]} {shares[best[0]]:.3f} | {best[1]} {shares[best[1]]:.3f} |" in table
    for wrong, wanted in ((0, "at least 1"), (5, "has 4 classes")):
        assert wanted in refused(bundle, clip, "--top-k", wrong)


def test_below_the_threshold_no_class_is_named(bundle: Path, clip: Path) -> None:
    (answer,) = run(bundle, clip, "--format", "json").answers
    sure = max(answer["probabilities"].values())
    (same,) = run(bundle, clip, "--format", "json", "--threshold", sure - 1e-6).answers
    assert same["label"] == answer["label"]
    above = ("--threshold", sure + 1e-6)
    (unsure,) = run(bundle, clip, "--format", "json", *above).answers
    assert unsure["label"] is None
    assert unsure["probabilities"] == answer["probabilities"]
    assert _csv(run(bundle, clip, "--format", "csv", *above).out)[0]["label"] == "-"
    assert re.search(r"\| clip  \| +a \| +- \|", run(bundle, clip, *above).out)
    assert "wanted a probability" in refused(bundle, clip, "--threshold", 1.5)


def test_latency_goes_to_standard_error(bundle: Path) -> None:
    sent = [line("a", seed) for seed in range(20)]
    ran = run(bundle, "-", "--format", "json", "--latency", stdin=sent)
    seconds = [answer["seconds"] for answer in ran.answers]
    found = re.fullmatch(
        r"latency of 20 answers: p50 (\S+) ms, p90 (\S+) ms, p99 (\S+) ms\n", ran.err
    )
    assert found
    wanted = np.percentile(seconds, (50, 90, 99)) * 1e3
    np.testing.assert_allclose([float(x) for x in found.groups()], wanted, atol=6e-4)


def test_quality_and_patterns_say_what_is_absent(bundle: Path) -> None:
    sent = [line("av", quality={"v": 0.2, "a": None}), line("av", quality={"v": 0.9}), line("av")]
    options = ("--format", "json", "--min-quality", "v=0.5", "--min-quality", "a=0.1")
    ran = run(bundle, "-", *options, stdin=sent)
    assert [a["pattern"] for a in ran.answers] == ["a", "a_v", "a_v"]
    assert ran.answers[0]["absent"] == {"v": "quality 0.2 is below 0.5", "t": "not given"}
    (only,) = run(bundle, "-", "--format", "json", "--pattern", "v", stdin=[sent[1]]).answers
    assert only["absent"] == {"a": "left out by pattern v", "t": "not given"}
    (row,) = _csv(run(bundle, "-", "--format", "csv", "--pattern", "v", stdin=[sent[1]]).out)
    assert row["absent"] == "a: left out by pattern v; t: not given"
    for wrong in ("v", "v=", "v=much", "x=1", "v=nan"):
        refused(bundle, "-", "--min-quality", wrong)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".md"])
def test_save_writes_what_would_be_shown(bundle: Path, tmp_path: Path, suffix: str) -> None:
    layout = {".csv": "csv", ".jsonl": "json", ".md": "table"}[suffix]
    out = tmp_path / "new" / f"answers{suffix}"
    sent = [line("a", id="émile, [b]\n"), "broken", line("v")]
    shown = run(bundle, "-", "--format", layout, stdin=sent)
    ran = run(bundle, "-", "--save", out, stdin=sent)
    assert ran.code == shown.code == 1
    assert ran.out.startswith("backend: onnxruntime-cpu")

    def timeless(text: str) -> str:
        # A time of one more digit makes its column wider.
        return re.sub(r" +", " ", re.sub(r"\d+\.\d+(e-\d+)?|-+:", "N", text))

    assert timeless(out.read_text(encoding="utf-8")) == timeless(shown.out)
    if suffix == ".jsonl":
        assert json.loads(out.read_text().splitlines()[0])["input"] == "émile, [b]\n"


def test_nothing_is_saved_when_nothing_is_answered(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    out.write_text("before")
    assert run(bundle, "-", "--save", out, stdin=["broken"]).code == 2
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]
    for place in (tmp_path, out / "below.csv"):
        ran = run(bundle, "-", "--save", place, stdin=[line("a")])
        assert (ran.code, ran.out) == (2, "")
        assert "cannot write" in ran.err


def test_options_may_stand_between_inputs(bundle: Path, clip: Path) -> None:
    ran = run(bundle, clip, "--format", "json", "--top-k", 1, clip)
    assert [a["input"] for a in ran.answers] == ["clip", "clip"]
    assert "got no input" in refused(bundle)
