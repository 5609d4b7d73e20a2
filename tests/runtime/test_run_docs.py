"""The commands of docs/run.md run, and it names every option."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_command import arrays, line, npz, run_bundle

from ifmmin.runtime.cli import main


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs" / "run.md").read_text(encoding="utf-8")


def test_every_command_runs(
    page: str, make_network: Any, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    (tmp_path / "bundle").symlink_to(run_bundle(make_network, tmp_path_factory))
    npz(tmp_path / "clip.npz", **arrays("at"))
    (tmp_path / "clips").mkdir()
    npz(tmp_path / "clips" / "one.npz", **arrays("a"))
    (tmp_path / "more.jsonl").write_text(line("a", id="clip1") + "\n")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    commands = [text for block in blocks for text in block.splitlines()]
    commands += re.findall(r"^\$ (.*)$", page, re.MULTILINE)
    assert len(commands) >= 5
    function = f'ifmmin-run() {{ "{sys.executable}" -m ifmmin.runtime.cli "$@"; }}'
    script = "\n".join(["set -e", function, *commands])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "answers.csv").read_text().startswith("input,pattern,label,")


def test_every_option_is_described(page: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    common = {"--help", "--version"}
    assert {option for option in options - common if f"`{option}" not in page} == set()
