"""What is given to `ifmmin-run` by those who mean harm: one line each, the others are answered."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import bounded
from run_command import arrays, command, line, npz, refused, run, run_bundle

bundle = pytest.fixture(run_bundle, scope="module")


def _npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin-1").ljust(118) + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + data


def _zip(path: Path, *members: tuple[str, bytes], packed: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", packed) as archive:
        for name, content in members:
            archive.writestr(name, content)


def _header(shape: object, dtype: str = "<f4") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"


def _bomb(path: Path) -> None:
    """Some kilobytes that unfold to more than is allowed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # noqa: SIM117
        with archive.open("a.npy", "w", force_zip64=True) as file:
            file.write(_npy(_header((1 << 24, 5))))
            for _ in range(20):
                file.write(bytes(1 << 24))


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


ARCHIVES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo, "a directory": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a circle": lambda path: path.symlink_to(path), "empty": Path.touch,
    "a bomb": _bomb,
    "sparse": _sparse,
    "no numbers": lambda path: npz(path, a=np.array([["x"] * 5])),
    "complex": lambda path: npz(path, a=np.zeros((3, 5), complex)),
    "structured": lambda path: npz(path, a=np.zeros((3, 5), [("x", "f4")])),
    "pickled": lambda path: npz(path, a=np.array([[None] * 5], dtype=object)),
    "another name": lambda path: npz(path, b=np.zeros((3, 5))),
    "a name twice": lambda path: _zip(path, ("a.npy", b""), ("a", b"")),
    "no array inside": lambda path: _zip(path, ("a.npy", b"hello")),
    "more than it holds": lambda path: _zip(path, ("a.npy", _npy(_header((10**12, 5))))),
    "less than nothing": lambda path: _zip(path, ("a.npy", _npy(_header((-3, 5)), bytes(60)))),
    "a shape in words": lambda path: _zip(path, ("a.npy", _npy(_header("('x', 5)")))),
    "code": lambda path: _zip(path, ("a.npy", _npy("__import__('os').abort()"))),
    "nested": lambda path: _zip(path, ("a.npy", _npy("(" * 100))),
    "a version to come": lambda path: _zip(
        path, ("a.npy", _npy(_header((3, 5)), bytes(60), b"\x09\x00"))),
    "objects": lambda path: _zip(path, ("a.npy", _npy(_header((3, 5), "|O"), bytes(60)))),
    "dates": lambda path: _zip(path, ("a.npy", _npy(_header((3, 5), "<M8[s]"), bytes(120)))),
    "an unknown type": lambda path: _zip(path, ("a.npy", _npy(_header((3, 5), "<q99"), bytes(60)))),
    "upwards": lambda path: _zip(path, ("../a.npy", _npy(_header((3, 5)), bytes(60)))),
    "wide": lambda path: npz(path, a=np.zeros((3, 6))),
    "flat": lambda path: npz(path, a=np.zeros(5)),
    "deep": lambda path: npz(path, a=np.zeros((1, 3, 5))), "nothing": lambda path: npz(path),
    "NaN": lambda path: npz(path, a=np.where(np.eye(5) > 0, np.nan, 0)),
    "too large for float32": lambda path: npz(path, a=np.full((3, 5), 1e300)),
}  # fmt: skip


@pytest.mark.parametrize("kind", ARCHIVES)
def test_one_bad_archive_among_many(
    bundle: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IFMMIN_INPUT_LIMIT", "100")
    npz(tmp_path / "1.npz", **arrays("a"))
    ARCHIVES[kind](tmp_path / "2.npz")
    npz(tmp_path / "3.npz", **arrays("av"))
    with bounded():
        ran = run(bundle, tmp_path, "--format", "json")
    assert ran.code == 1
    assert ["error" in answer for answer in ran.answers] == [False, True, False]
    assert [text.startswith("error: ") for text in ran.err.splitlines()] == [True, False]
    with bounded():
        assert refused(bundle, tmp_path / "2.npz")


def test_a_limit_can_be_raised_and_lowered(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = npz(tmp_path / "x.npz", a=np.zeros((70_000, 5), np.float32))
    assert run(bundle, path).code == 0
    monkeypatch.setenv("IFMMIN_INPUT_LIMIT", "1")
    assert "allow more by IFMMIN_INPUT_LIMIT" in refused(bundle, path)
    (tmp_path / "x.jsonl").write_text(
        line("a") + "\n" + line("a", id="x" * 70_000) + "\n" + line("a")
    )
    ran = run(bundle, tmp_path / "x.jsonl", "--format", "json")
    assert ["error" in answer for answer in ran.answers] == [False, True, False]
    assert "line 2" in ran.err
    monkeypatch.setenv("IFMMIN_INPUT_LIMIT", "much")
    assert "IFMMIN_INPUT_LIMIT: got 'much'" in refused(bundle, path)


LINES: dict[str, str] = {
    "nested": "[" * 100_000, "nested frames": '{"a": ' + "[" * 100_000, "half": '{"a": [[1, 2',
    "NaN": '{"a": [[NaN, 1, 2, 3, 4]]}', "null": "null", "a list": "[1]", "text": '"a"',
    "words": "hello",
    "an unknown field": '{"b": [[1]]}', "a word": '{"a": [["x", 1, 2, 3, 4]]}',
    "ragged": '{"a": [[1], [1, 2]]}',
    "too large": '{"a": [[1e999, 1, 2, 3, 4]]}', "beyond float32": '{"a": [[1e300, 1, 2, 3, 4]]}',
    "a bool": '{"a": [[true, 1, 2, 3, 4]]}', "nothing": "{}", "flat": '{"a": [1, 2, 3, 4, 5]}',
    "a NUL": '{"a": [[0, 1, 2, 3, 4]]}\0',
    "an id that is none": '{"id": [1], "a": [[0, 1, 2, 3, 4]]}',
    "quality in words": '{"a": [[0, 1, 2, 3, 4]], "quality": {"a": "good"}}',
    "twice": '{"a": null, "a": 5}',
}  # fmt: skip


def test_one_bad_line_among_many(bundle: Path) -> None:
    lines = [line("a", id="first"), *LINES.values(), line("a", id="last")]
    with bounded():
        ran = run(bundle, "-", "--format", "json", stdin=lines)
    assert ran.code == 1
    wrong = ["error" in answer for answer in ran.answers]
    told = dict(zip(LINES, wrong[1:-1], strict=True))
    assert wrong == [False, *[True] * len(LINES), False], told
    latin = b'{"id": "\xe9", "a": [[0, 1, 2, 3, 4]]}\n' + line("a").encode()
    ran = run(bundle, "-", "--format", "json", stdin=latin)
    assert ["error" in answer for answer in ran.answers] == [True, False]


NAMES = (
    "\x1b]0;owned\x07",
    "\x9b2J",
    "a\nb",
    "=1+1",
    "@SUM(A1)",
    "\u202egpj.exe",
    "<b>&",
    "会话01",
)


@pytest.mark.parametrize("layout", ["table", "json", "csv"])
def test_names_do_nothing_where_they_are_shown(bundle: Path, layout: str, tmp_path: Path) -> None:
    lines = [line("a", id=name) for name in NAMES] + [json.dumps({"id": name}) for name in NAMES]
    ran = run(bundle, "-", "--format", layout, "-o", tmp_path / "saved", stdin=lines)
    assert ran.code == 1
    for text in (ran.out, ran.err, (tmp_path / "saved").read_text("utf-8")):
        assert all(c.isprintable() or c == "\n" for c in text)
    if layout == "json":
        assert [answer["input"] for answer in ran.answers[: len(NAMES)]] == list(NAMES)
    if layout == "csv":
        rows = list(csv.reader(io.StringIO(ran.out)))
        assert not [cell for row in rows for cell in row if re.match(r"[=@+]|-[^0-9]", cell)]


def _process(bundle: Path, *words: object, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(bundle, *words), stdin=subprocess.DEVNULL, timeout=60, **more
    )  # fmt: skip


@pytest.mark.parametrize("words", [
    ("--format", "table"), ("--format", "json"), ("--format", "csv"), ("--explain",), ("--help",),
    ("--version",),
], ids=" ".join)  # fmt: skip
def test_standard_output_that_takes_nothing(
    bundle: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    clip = npz(tmp_path / "x.npz", **arrays("a"))
    with Path("/dev/full").open("wb") as full:
        ran = _process(bundle, clip, *words, stdout=full, stderr=subprocess.PIPE)
    assert (ran.returncode, ran.stderr.count(b"\n")) == (2, 1), ran.stderr
    assert b"standard output" in ran.stderr
    closed = ["sh", "-c", '"$@" >&-', "sh", *command(bundle, clip, *words)]
    ran = subprocess.run(closed, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (ran.returncode, ran.stderr.count(b"\n")) == (2, 1), ran.stderr
    gone, theirs = os.pipe()
    os.close(gone)
    ran = _process(bundle, clip, *words, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert (ran.returncode, ran.stderr) == (128 + signal.SIGPIPE, b"")
    mute = ["sh", "-c", '"$@" 2>&-', "sh", *command(bundle, clip, *words)]
    assert subprocess.run(mute, stdout=subprocess.PIPE, timeout=60, check=False).returncode == 0


def test_a_saved_file_is_whole_or_not_there(bundle: Path, tmp_path: Path) -> None:
    clip, saved = npz(tmp_path / "x.npz", **arrays("a")), tmp_path / "saved.csv"
    saved.write_text("before")
    limited = "import resource, sys, runpy\n" \
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))\n" \
        "sys.argv = sys.argv[1:]\n" \
        "runpy.run_module('ifmmin.runtime.cli.run', run_name='__main__')\n"  # fmt: skip
    _, _, _, *words = command(bundle, clip, "-o", saved)
    ran = subprocess.run(
        [sys.executable, "-c", limited, "ifmmin-run", *words], capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 2, ran.stderr
    assert "cannot write" in ran.stderr
    assert saved.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved.csv", "x.npz"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_leave_nothing_half_written(bundle: Path, tmp_path: Path, number: int) -> None:
    saved = tmp_path / "saved.jsonl"
    saved.write_text("before")
    words = command(bundle, "-", "--format", "json", "-o", saved)
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(line("a").encode() + b"\n")
        process.stdin.flush()
        assert b'"label"' in process.stdout.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert b"Traceback" not in err
    assert saved.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["saved.jsonl"]
