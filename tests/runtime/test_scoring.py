"""Scoring by Ray on this machine: one row per input, whatever ends in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from run_command import call, noise
from small_bundles import ALL

from ifmmin.runtime import Policy, Predictor, Recognizer
from ifmmin.runtime.bundle import shipped
from ifmmin.runtime.cli.run import main

for _name in ("ray", "pyarrow", "pandas", "psutil"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: the extra ray")

import numpy as np  # noqa: E402 - skipped before
import psutil  # noqa: E402
import pyarrow  # noqa: E402
import pyarrow.parquet as parquet  # noqa: E402

TEXTS = ("what a nice surprise", "I miss her", "leave me alone", "the train leaves at nine", "")


def rows(out: Path) -> list[dict[str, Any]]:
    return [
        row for path in sorted(out.glob("part-*.parquet"))
        for row in parquet.read_table(path).to_pylist()
    ]  # fmt: skip


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ifmmin.runtime.cli.run", *map(str, arguments)]


def scored(*arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which Ray may do with as it likes."""
    return subprocess.run(
        command(*arguments, "--executor", "ray"), capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """40 parts of some sentences each."""
    path = tmp_path / "texts.parquet"
    ids = [f"{number}" for number in range(1200)]
    table = pyarrow.table({"id": ids, "text": [TEXTS[n % len(TEXTS)] for n in range(len(ids))]})
    parquet.write_table(table, path, row_group_size=30)
    return path


def broken(path: Path) -> None:
    """Two row groups of two sentences; of the second, words and names cannot be read."""
    table = pyarrow.table({"id": ["0", "1", "2", "3"], "text": ["yes", "no", "you", "me"]})
    parquet.write_table(table, path, row_group_size=2)
    content = bytearray(path.read_bytes())
    begin = parquet.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    content[begin : begin + 40] = b"\xff" * 40
    path.write_bytes(content)


def test_recordings_and_parquet(tmp_path: Path, root: Path) -> None:
    recordings = root / "examples" / "recordings"
    inputs, out = tmp_path / "inputs", tmp_path / "out"
    inputs.mkdir()
    (inputs / "broken.wav").write_bytes(b"RIFF")
    for name in ("sad", "happy"):
        (inputs / f"{name}.wav").write_bytes((recordings / f"{name}.wav").read_bytes())
    (inputs / "happy.txt").write_text("what a nice surprise")
    content = (recordings / "angry.wav").read_bytes()
    table = pyarrow.table(
        {"id": ["bytes", "path"], "sound": [content, None],
         "path": [None, str(recordings / "angry.wav")], "text": [None, TEXTS[0]]}
    )  # fmt: skip
    parquet.write_table(table, inputs / "more.parquet")
    broken(inputs / "rotten.parquet")
    ran = scored(inputs, "-o", out)
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr == f"wrote 9 rows to {out}, 3 of them errors\n"
    found = {row["id"]: row for row in rows(out)}
    lost = [row["error"] for row in rows(out) if row["id"] is None]
    assert len(lost) == 2
    assert all("rotten.parquet, row group 1 cannot be read" in told for told in lost)
    assert "no sound that can be read" in found["broken.wav"]["error"]
    exact = Recognizer(backend="onnxruntime-cpu")
    asked: dict[str, dict[str, Any]] = {
        "sad.wav": {"sound": recordings / "sad.wav"},
        "happy.wav": {"sound": recordings / "happy.wav", "text": TEXTS[0]},
        "bytes": {"sound": recordings / "angry.wav"},
        "path": {"sound": recordings / "angry.wav", "text": TEXTS[0]},
    }
    for name, told in asked.items():
        wanted = exact.recognize(**told)
        row = found[name]
        assert (row["label"], row["pattern"]) == (wanted.label, str(wanted.pattern))
        shares = [row[label] for label in exact.labels]
        assert shares == pytest.approx(wanted.probabilities.tolist(), abs=1e-5)
    assert scored(inputs, "-o", out).returncode == 1, "nothing is scored again, the errors stay"
    other = scored(inputs, "-o", out, "--pattern", "a")
    assert (other.returncode, "for other inputs, options" in other.stderr) == (2, True)
    (inputs / "one-more.wav").write_bytes(content)
    again = scored(inputs, "-o", out)
    assert (again.returncode, "for other inputs" in again.stderr) == (2, True)


def test_features(tmp_path: Path, make_bundle: Any) -> None:
    bundle, out = make_bundle(ALL), tmp_path / "out"
    given: dict[str, Any] = {}
    for number in range(3):
        given[f"{number}"] = {m: noise(m, 9, number) for m in "avt"[: number + 1]}
        np.savez(tmp_path / f"{number}.npz", **given[f"{number}"])
    given["2"]["a"][3] = np.nan
    np.savez(tmp_path / "2.npz", **given["2"])
    files = [tmp_path / f"{name}.npz" for name in given]
    chosen = ("-b", bundle, "--backend", "onnxruntime-cpu", "--pattern", "a", "--nan", "drop")
    ran = scored(*files, "-o", out, *chosen)
    assert ran.returncode == 0, ran.stderr
    exact = Predictor(bundle, backend="onnxruntime-cpu", policy=Policy("drop"))
    for row in rows(out):
        wanted = exact.predict(given.pop(row["id"]), pattern="a")
        shares = [row[label] for label in exact.labels]
        assert shares == pytest.approx(wanted.probabilities.tolist(), abs=1e-5)
        assert row["pattern"] == "a"
    assert not given


def begun(out: Path, texts: Path) -> subprocess.Popen[str]:
    """A run that has written some parts, and not all."""
    running = subprocess.Popen(
        command(texts, "-o", out, "--executor", "ray"), stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(list(out.glob("part-*.parquet"))) < 2:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return running


def worker(of: int) -> psutil.Process:
    """A process of that run's Ray that scores."""
    for process in psutil.Process(of).children(recursive=True):
        with suppress(psutil.Error):
            if any("ray::MapWorker" in word for word in process.cmdline()):
                return process
    raise AssertionError("no process scores")


@pytest.mark.parametrize("whom", ["a worker", "all of it", "by SIGTERM"])
def test_one_row_per_input_whatever_is_killed(texts: Path, tmp_path: Path, whom: str) -> None:
    out = tmp_path / "out"
    running = begun(out, texts)
    if whom == "a worker":
        worker(running.pid).kill()
        _, said = running.communicate(timeout=90)
        assert running.returncode == 1, said  # of what has no words
    else:
        if whom == "all of it":
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate(timeout=30)
        else:
            running.terminate()
            assert running.communicate(timeout=30)[1] == ""
            assert running.returncode == 128 + signal.SIGTERM
        kept = {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
        assert len(kept) < 40, "it was too quick"
        again = scored(texts, "-o", out)
        assert again.returncode == 1, again.stderr
        assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    found = rows(out)
    assert sorted(int(row["id"]) for row in found) == list(range(1200))
    for row in found:
        assert (row["error"] is None) == (int(row["id"]) % len(TEXTS) != 4)
    names = [path.name for path in out.iterdir() if not path.name.startswith(".")]
    assert len(names) == 41, "parts and the plan; what the killed left aside has other names"


DEADLY = """
import os, sys
from pathlib import Path
from ifmmin.runtime.bundle import shipped
from ifmmin.runtime.errors import IfmminError
from ifmmin.runtime.scoring import score

def die(sound):
    os._exit(9)

try:
    score([Path(sys.argv[1])], Path(sys.argv[2]), shipped(), transcribe=die)
except IfmminError as error:
    print(error)
"""


def test_an_input_that_ends_its_process_costs_its_part(tmp_path: Path, root: Path) -> None:
    sad, out = root / "examples" / "recordings" / "sad.wav", tmp_path / "out"
    table = pyarrow.table(
        {"id": list("abcdef"), "path": [None, None, str(sad), None, None, None],
         "text": ["yes", "no", None, "you", "me", "it"]}
    )  # fmt: skip
    parquet.write_table(table, tmp_path / "deadly.parquet", row_group_size=2)
    command = [sys.executable, "-c", DEADLY, str(tmp_path / "deadly.parquet"), str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "1 of 3 parts are missing, the first" in ran.stdout, ran
    assert "deadly.parquet, row group 1: the processes that scored them died" in ran.stdout
    assert [row["id"] for row in rows(out)] == list("abef")


def test_what_hinders_every_input_ends_the_run(texts: Path, tmp_path: Path) -> None:
    ran = scored(texts, "-o", tmp_path / "out", "--precision", "int8")
    assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1), ran.stderr
    assert "could be answered: the bundle" in ran.stderr
    assert not rows(tmp_path / "out")


def test_mistakes_are_one_line(tmp_path: Path, texts: Path, root: Path) -> None:
    recordings = root / "examples" / "recordings"
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "other.parquet")
    parquet.write_table(pyarrow.table({"id": [1], "sound": ["x"]}), tmp_path / "typed.parquet")
    (tmp_path / "lines.jsonl").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for arguments, said in (
        ((recordings,), "name their directory by --save DIR"),
        ((recordings, "-o", tmp_path / "x.csv"), "name their directory by --save DIR"),
        ((tmp_path / "nothing", "-o", tmp_path / "out"), "no input at"),
        ((tmp_path / "bad.parquet", "-o", tmp_path / "out"), "is no Parquet"),
        ((tmp_path / "other.parquet", "-o", tmp_path / "out"), "wanted id and some of"),
        ((tmp_path / "typed.parquet", "-o", tmp_path / "out"), "got sound of type string"),
        ((tmp_path / "empty", "-o", tmp_path / "out"), "no recording, .npz or Parquet"),
        ((tmp_path / "lines.jsonl", "-o", tmp_path / "out"), "no recording, .npz or Parquet"),
        ((shipped(), "-o", tmp_path / "out"), "is a bundle, not an input"),
        (("-o", tmp_path / "out"), "no input"),
        ((texts, "-o", tmp_path / "out", "-b", tmp_path / "nothing"), "no bundle at"),
        ((texts, "-o", tmp_path / "out", "--threshold", "0.5"), "does not go with --executor ray"),
        ((texts, "-o", tmp_path / "out", "--format", "csv"), "does not go with --executor ray"),
        ((texts, "-o", tmp_path / "full"), "holds other things"),
        ((recordings, "-o", tmp_path / "out", "--text", "x"), "--text does not go with"),
        ((recordings, "-o", tmp_path / "out", "--top-k", "2"), "--top-k does not go with"),
        ((recordings, "-o", tmp_path / "out", "--explain"), "--explain does not go with"),
    ):
        ran = call(main, *arguments, "--executor", "ray")
        assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
        assert said in ran.err
        assert not (tmp_path / "out").exists()
