"""What `make test-aarch64` left: its table in docs, its reasons, its look at what it fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def check(root: Path, *words: object, path: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, root / "tests" / "aarch64" / "check.py", *map(str, words)],
        env={**os.environ, "PATH": os.environ["PATH"] if path is None else path},
        capture_output=True, text=True,
    )  # fmt: skip


def test_the_page_has_the_table_of_the_record(root: Path, tmp_path: Path) -> None:
    page = (root / "docs" / "jetson.md").read_text()
    begun = page.partition("<!-- what ran where: begin -->\n")[2]
    assert check(root, tmp_path, "--table").stdout == begun.partition("<!-- what ran where: end")[0]
    record = json.loads((root / "tests" / "aarch64" / "record.json").read_text())
    assert all(row["passed"] and row["checks"] for row in record["rows"])
    assert record["seconds"] < 600
    told = [row["what"] for row in record["rows"]]
    for precision in ("fp32", "fp16", "int8", "int8-qdq"):
        for shape in ("latency", "throughput"):
            assert f"golden vectors, tiny bundle: {shape} {precision}" in told
    assert sum(what.startswith("control") for what in told) == 2


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="aarch64 is emulated on x86-64")
def test_without_apt_it_says_why(root: Path, tmp_path: Path) -> None:
    ran = check(root, tmp_path / "new", path=str(tmp_path))
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr == (
        "skipped: packages of Debian are fetched by apt, and there is no apt-get\n"
    )


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="aarch64 is emulated on x86-64")
def test_what_was_fetched_must_be_what_is_kept(root: Path, tmp_path: Path) -> None:
    script = (
        "import json, sys; from pathlib import Path; from machine import wanted, prepare;"
        "folder = Path(sys.argv[1]); (folder / 'wheels').mkdir();"
        "(folder / 'wheels' / 'one.whl').write_bytes(b'other');"
        "made = {'wanted': wanted(), 'versions': {}, 'sha256': {'wheels/one.whl': '0' * 64}};"
        "(folder / 'made.json').write_text(json.dumps(made)); prepare(folder)"
    )
    words = [sys.executable, "-c", script, str(tmp_path)]
    ran = subprocess.run(words, cwd=root / "tests" / "aarch64", capture_output=True, text=True)
    assert ran.returncode == 1
    damaged = f"error: {tmp_path}/wheels/one.whl is not what was fetched; "
    assert ran.stderr == f"{damaged}remove {tmp_path} and try again\n"
