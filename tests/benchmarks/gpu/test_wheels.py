"""A folder of wheels: what pip takes from it without an index, and what a damaged one lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from made_wheels import write_wheel
from small_bundles import flip

SCRIPT = Path("benchmarks/gpu/wheels.py")


def _run(root: Path, action: str, folder: Path) -> tuple[int, str]:
    """Without any package, as on a machine on which nothing is installed."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", root / SCRIPT, action, folder],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


@pytest.fixture
def folder(tmp_path: Path, root: Path) -> Path:
    made = tmp_path / "wheels"
    for name in ("first_one", "second"):
        write_wheel(made, name)
    assert _run(root, "list", made) == (0, f"{made}: 2 wheels\n")
    return made


def test_pip_takes_what_was_listed(folder: Path, root: Path, tmp_path: Path) -> None:
    assert _run(root, "check", folder) == (0, f"{folder}: 2 wheels\n")
    command: list[str | Path] = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--require-hashes",
        "--find-links", folder, "--requirement", folder / "requirements.txt", "--target",
    ]  # fmt: skip
    if subprocess.run([*command[:3], "--version"], capture_output=True).returncode:
        pytest.skip("pip is not installed here")
    subprocess.run([*command, tmp_path / "site"], check=True, timeout=60)
    assert (tmp_path / "site" / "second.py").is_file()
    flip(folder / "second-1.0-py3-none-any.whl")
    done = subprocess.run(
        [*command, tmp_path / "again"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode
    assert "DO NOT MATCH" in done.stderr


def test_a_wheel_of_another_hash(folder: Path, root: Path) -> None:
    wheel = folder / "second-1.0-py3-none-any.whl"
    flip(wheel)
    code, said = _run(root, "check", folder)
    assert code == 2
    assert said.startswith(f"error: {wheel} has sha256 ")
    assert "make gpu-wheels" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: (path / "second-1.0-py3-none-any.whl").unlink(), "has no second 1.0"),
        (lambda path: (path / "requirements.txt").unlink(), "cannot be read"),
        (lambda path: (path / "requirements.txt").write_text(""), "names no Python"),
        (lambda path: (path / "requirements.txt").write_bytes(b"\xff\xfe"), "cannot be read"),
    ],
)
def test_folders_that_are_not_whole(folder: Path, root: Path, change: object, words: str) -> None:
    assert callable(change)
    change(folder)
    code, said = _run(root, "check", folder)
    assert code == 2
    assert words in said


def test_a_line_that_names_no_wheel(folder: Path, root: Path) -> None:
    listed = folder / "requirements.txt"
    listed.write_text(f"{listed.read_text()}--index-url https://example.org\n")
    code, said = _run(root, "check", folder)
    assert code == 2
    assert "names no wheel" in said


def test_wheels_for_another_python(folder: Path, root: Path) -> None:
    listed = folder / "requirements.txt"
    listed.write_text("\n".join(["# Python 3.9 on sparc64", *listed.read_text().splitlines()[1:]]))
    code, said = _run(root, "check", folder)
    assert code == 2
    assert "is for Python 3.9 on sparc64, this is Python" in said


def test_a_folder_without_wheels(tmp_path: Path, root: Path) -> None:
    code, said = _run(root, "list", tmp_path)
    assert code == 2
    assert "at least one was wanted" in said
