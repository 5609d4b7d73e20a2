"""The Ray executor, run for real on a cluster of this machine with two CPUs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ifmmin.train.cli import main

GRID = ["--model", "augmented,linear", "--folds", "1-2", "--seeds", "0"]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_ray_gives_the_same_report_as_local(tiny: list[str], tmp_path: Path) -> None:
    local, on_ray = tmp_path / "local", tmp_path / "ray"
    assert main(["sweep", *tiny, *GRID, "--jobs", "1", "--out", str(local)]) == 0
    command = [sys.executable, "-m", "ifmmin.train.cli", "sweep", *tiny, *GRID]
    done = subprocess.run(
        [*command, "--executor", "ray", "--jobs", "2", "--out", str(on_ray)],
        capture_output=True, text=True, timeout=300,
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "sweep 4/4" in done.stderr
    for name in ("results.md", "results.csv", "units.csv", "differences.csv"):
        assert (on_ray / name).read_bytes() == (local / name).read_bytes(), name


def test_without_ray_one_line_says_what_to_install(tiny: list[str], tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['ray'] = None\n"
        "from ifmmin.train.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["sweep", *tiny, *GRID, "--executor", "ray", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'ifmmin[ray]'" in done.stderr
