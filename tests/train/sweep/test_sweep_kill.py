"""A sweep may die at any moment: what is finished stays, and the end is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_command import call
from small_recipe import TINY

from ifmmin.train.cli import main

GRID = ["--model", "if-mmin,linear", "--folds", "1-3", "--seeds", "0"]
UNITS = 6
REPORT = ("results.md", "results.csv", "units.csv", "differences.csv", "plots/bars.png")

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="finds worker processes in /proc, as on Linux"
)


def _start(out: Path, jobs: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ifmmin.train.cli", "sweep", *TINY, *GRID]
    return subprocess.Popen(
        [*command, "--jobs", str(jobs), "--out", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _finished(out: Path) -> dict[str, int]:
    """The finished units and when each of their files was written."""
    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns
        for run in (out / "units").glob("*/fold-?/seed-?")
        for path in [run, *run.iterdir()]
    }


def _count(out: Path) -> int:
    return sum(1 for _ in (out / "units").glob("*/fold-?/seed-?"))


def _wait_for(process: subprocess.Popen[str], out: Path, units: int) -> None:
    while process.poll() is None and _count(out) < units:
        time.sleep(0.02)


def _children(parent: int) -> list[int]:
    """The processes that any of its threads started."""
    found = []
    for listed in Path(f"/proc/{parent}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread ended
            found += [int(child) for child in listed.read_text().split()]
    return found


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _deaf_to_ctrl_c(process: int) -> bool:
    """It blocks or ignores the signal, whatever it is doing at the moment."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    masks = dict(line.split(":", 1) for line in lines)
    deaf = int(masks["SigBlk"], 16) | int(masks["SigIgn"], 16)
    return bool(deaf >> (signal.SIGINT - 1) & 1)


def _require_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(_alive(process) for process in processes):
        assert time.monotonic() < deadline, "workers outlive the sweep that started them"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "sweep"
    assert main(["sweep", *TINY, *GRID, "--jobs", "1", "--out", str(out)]) == 0
    return out


def _require_same_report(out: Path, undisturbed: Path) -> None:
    for name in REPORT:
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert list(out.rglob("*.part")) == []


def _reach(moment: str, process: subprocess.Popen[str], out: Path, draws: Any) -> None:
    """Wait for a random moment of a kind."""
    have = _count(out)
    if moment == "start":
        time.sleep(draws.uniform(0.0, 2.0))
    elif moment == "worker":
        while process.poll() is None and not _children(process.pid):
            time.sleep(0.01)
        time.sleep(draws.uniform(0.0, 2.0))
    elif moment == "unit":  # after one more, somewhere within the next
        _wait_for(process, out, min(have + 1, UNITS))
        time.sleep(draws.uniform(0.0, 0.3))
    else:  # "write": while a run is being written
        while process.poll() is None and not list((out / "units").glob("*/*/.*.part")):
            if _count(out) == UNITS:
                break
            time.sleep(0.001)


MOMENTS = ("start", "unit", "write", "worker")


def test_kills_change_nothing(tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "sweep"
    draws = np.random.default_rng(7)
    seen: dict[str, int] = {}
    counts, workers_seen = [], 0
    for kill, moment in enumerate(MOMENTS):
        process = _start(out, jobs=2 if kill == 2 else 1)
        _reach(moment, process, out, draws)
        workers = _children(process.pid)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        _require_gone(workers)
        workers_seen += len(workers)
        now = _finished(out)
        assert seen.items() <= now.items(), "a finished unit was lost or written again"
        seen = now
        counts.append(_count(out))
    assert workers_seen > 0
    assert counts[-1] > counts[0], "the kills must fall between units, not before all of them"
    process = _start(out)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert seen.items() <= _finished(out).items()
    _require_same_report(out, undisturbed)


def test_ctrl_c_stops_at_once_and_finished_units_stay(tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "sweep"
    process = _start(out, jobs=2)
    _wait_for(process, out, 2)
    while len(workers := list(filter(_alive, _children(process.pid)))) < 2:
        assert process.poll() is None  # one unit ended, the next has not started yet
        time.sleep(0.02)
    assert all(_deaf_to_ctrl_c(worker) for worker in workers)
    before = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the group
    _, error = process.communicate(timeout=30)
    assert time.monotonic() - before < 5
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "interrupted" in error
    _require_gone(workers)
    assert list(out.rglob("*.part")) == []
    seen = _finished(out)
    assert 2 <= _count(out) < UNITS
    assert main(["sweep", *TINY, *GRID, "--jobs", "1", "--out", str(out)]) == 0
    assert seen.items() <= _finished(out).items()
    _require_same_report(out, undisturbed)


def test_the_lock_dies_with_the_process(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    process = _start(out)
    while not (out / "sweep.json").is_file():
        assert process.poll() is None
        time.sleep(0.02)
    small = ["--model", "linear", "--folds", "1", "--seeds", "0", "--out", out]
    assert "another sweep is at work" in call(main, "sweep", *TINY, *small).err
    process.kill()
    process.communicate()
    assert call(main, "sweep", *TINY, *small).code == 0
