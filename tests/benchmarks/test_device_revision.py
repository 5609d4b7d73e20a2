"""The commit of the running code, in checkouts made for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ifmmin.benchmarks.device.info import find_revision
from ifmmin.benchmarks.device.machine import Machine, Revision


def git(folder: Path, *words: str) -> None:
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *author, "-C", str(folder), *words], check=True, capture_output=True)


def test_revision(tmp_path: Path) -> None:
    code, machine = tmp_path / "code.py", Machine()
    code.write_text("1\n")
    assert find_revision(machine, code) is None
    git(tmp_path, "init", "-q")
    assert find_revision(machine, code) is None, "git does not have the file yet"
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "one")
    clean = find_revision(machine, code)
    assert clean == Revision(commit=clean.commit if clean else "", changed=False)
    assert clean is not None
    assert len(clean.commit) == 40
    (tmp_path / "report.json").write_text("{}")
    assert find_revision(machine, code) == clean, "a new file changes nothing"
    code.write_text("2\n")
    assert find_revision(machine, code) == Revision(commit=clean.commit, changed=True)


def test_installed_copy_inside_a_checkout_has_no_revision(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "other.py").write_text("1\n")
    git(tmp_path, "add", "other.py")
    git(tmp_path, "commit", "-qm", "one")
    copy = tmp_path / "venv" / "revision.py"
    copy.parent.mkdir()
    copy.write_text("1\n")
    assert find_revision(Machine(), copy) is None
