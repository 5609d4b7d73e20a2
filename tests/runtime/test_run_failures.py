"""`ifmmin-run` with broken inputs among sound ones, on terminals, and interrupted."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_command import BACKEND, arrays, line, npz, run, run_bundle

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.inputs import find_inputs

COMMAND = [sys.executable, "-m", "ifmmin.runtime.cli"]


@pytest.fixture(scope="module")
def bundle(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_bundle(make_network, tmp_path_factory)


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
    wanted = ("cannot be read as .npz", "wanted (frames, 5)", "graph of t", "not an .npz archive")
    for text, letter, part in zip(lines, "bcde", wanted, strict=True):
        assert text.startswith(f"error: {tmp_path / letter}.npz: ")
        assert part in text
    assert last == "4 of 6 inputs could not be answered"


def test_a_bundle_at_fault_stops_at_once(bundle: Path, tmp_path: Path) -> None:
    spoilt = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (spoilt / "a.latency.fp32.onnx").write_bytes(b"")
    ran = run(spoilt, "-", stdin=[line("a"), line("a")])
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "is damaged" in ran.err


_SOUND = io.BytesIO()
np.savez_compressed(_SOUND, **arrays("at"))  # type: ignore[arg-type]


@settings(max_examples=200)
@given(st.data())
def test_damaged_archives_are_input_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(_SOUND.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    (item,) = find_inputs([str(path)]).items()
    with contextlib.suppress(InputError):
        assert set(item.read().utterance) <= {"a", "t"}


def test_ctrl_c_leaves_nothing_half_written(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    out.write_text("before")
    command = [*COMMAND, str(bundle), "-", "--format", "json", "--save", str(out), *BACKEND]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(line("a") + "\n")
        process.stdin.flush()
        assert '"label"' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "interrupted; nothing was left half written\n"
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]


def test_a_reader_that_goes_away_is_no_error(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").write_text(f"{line('a')}\n" * 3000)
    out = tmp_path / "answers.csv"
    command = [*COMMAND, str(bundle), str(tmp_path / "clips.jsonl"), "--format", "json", *BACKEND]
    with subprocess.Popen(
        [*command, "--save", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 128 + signal.SIGPIPE
    assert b"rror" not in err
    assert not out.exists()


def test_answers_stay_on_standard_output_beside_a_bar(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").write_text(f"{line('a')}\n" * 60)
    ours, theirs = pty.openpty()
    command = [*COMMAND, str(bundle), str(tmp_path / "clips.jsonl"), "--format", "json", *BACKEND]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, env=environment, check=True
    )
    os.close(theirs)
    bar = os.read(ours, 1 << 20)
    os.close(ours)
    assert done.stdout.count(b'"label"') == 60
    assert b"60/60" in bar
    assert b'"label"' not in bar


def test_names_on_a_terminal_are_no_markup(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").write_text(line("a", id="[/x] \x1b[2J") + "\n")
    ours, theirs = pty.openpty()
    subprocess.run(
        [*COMMAND, str(bundle), str(tmp_path / "clips.jsonl"), *BACKEND], stdout=theirs, check=True
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 20)
    os.close(ours)
    assert b"[/x] ?[2J" in shown
