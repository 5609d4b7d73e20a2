"""Scoring by Ray on this machine: one row per input, whatever ends in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from run_command import call, noise
from small_bundles import ALL

from ifmmin.runtime import Predictor, Recognizer
from ifmmin.runtime.cli.run import main

for _name in ("ray", "pyarrow", "pandas"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: the extra ray")

import numpy as np  # noqa: E402 - skipped before
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


def test_recordings_features_and_parquet(tmp_path: Path, root: Path) -> None:
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
    ran = scored(inputs, "-o", out)
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.splitlines()[-1] == f"wrote 5 rows to {out}, 1 of them errors"
    found = {row["id"]: row for row in rows(out)}
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
    assert scored(inputs, "-o", out).returncode == 1, "nothing is scored again, the error stays"
    (inputs / "one-more.wav").write_bytes(content)
    again = scored(inputs, "-o", out)
    assert (again.returncode, "for other inputs" in again.stderr) == (2, True)


def test_features(tmp_path: Path, make_bundle: Any) -> None:
    bundle, out = make_bundle(ALL), tmp_path / "out"
    given: dict[str, Any] = {}
    for number in range(3):
        given[f"{number}.npz"] = {m: noise(m, 9, number) for m in "avt"[: number + 1]}
        np.savez(tmp_path / f"{number}.npz", **given[f"{number}.npz"])
    files = [tmp_path / name for name in given]
    assert scored(*files, "-b", bundle, "-o", out, "--backend", "onnxruntime-cpu").returncode == 0
    exact = Predictor(bundle, backend="onnxruntime-cpu")
    for row in rows(out):
        wanted = exact.predict(given[f"{row['id']}.npz"])
        shares = [row[label] for label in exact.labels]
        assert shares == pytest.approx(wanted.probabilities.tolist(), abs=1e-5)


def _workers() -> list[int]:
    """Processes of Ray that score."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"ray::MapWorker" in name:
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize("whom", ["a worker", "all of it"])
def test_one_row_per_input_whatever_is_killed(texts: Path, tmp_path: Path, whom: str) -> None:
    out = tmp_path / "out"
    before = set(_workers())
    running = subprocess.Popen(
        command(texts, "-o", out, "--executor", "ray"), stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(list(out.glob("part-*.parquet"))) < 2:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if whom == "a worker":
        (killed, *_) = set(_workers()) - before
        os.kill(killed, signal.SIGKILL)
        _, said = running.communicate(timeout=90)
        assert running.returncode == 1, said  # of what has no words
    else:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate(timeout=30)
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


def test_mistakes_are_one_line(tmp_path: Path, texts: Path, root: Path) -> None:
    recordings = root / "examples" / "recordings"
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "other.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for arguments, said in (
        ((recordings,), "name their directory by --save DIR"),
        ((recordings, "-o", tmp_path / "x.csv"), "name their directory by --save DIR"),
        ((tmp_path / "nothing", "-o", tmp_path / "out"), "no input at"),
        ((tmp_path / "bad.parquet", "-o", tmp_path / "out"), "is no Parquet"),
        ((tmp_path / "other.parquet", "-o", tmp_path / "out"), "wanted id and some of"),
        ((tmp_path / "empty", "-o", tmp_path / "out"), "no recording, .npz or Parquet"),
        ((texts, "-o", tmp_path / "full"), "holds other things"),
        ((recordings, "-o", tmp_path / "out", "--text", "x"), "--text does not go with"),
        ((recordings, "-o", tmp_path / "out", "--top-k", "2"), "--top-k does not go with"),
        ((recordings, "-o", tmp_path / "out", "--explain"), "--explain does not go with"),
    ):
        ran = call(main, *arguments, "--executor", "ray")
        assert (ran.code, len(ran.err.splitlines())) == (2, 1), ran.err
        assert said in ran.err
        assert not (tmp_path / "out").exists()
