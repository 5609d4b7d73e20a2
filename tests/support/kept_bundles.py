"""Bundles that an interpreter with torch keeps for the tests of one without.

`make test-runtime` names the folder in `IFMMIN_TEST_BUNDLES`, for both.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ifmmin.runtime.atomic import atomic_directory

VARIABLE = "IFMMIN_TEST_BUNDLES"


def keep(bundle: Path, name: str) -> None:
    """Keep a copy of a bundle that was made just now, in place of what was there by that name."""
    folder = os.environ.get(VARIABLE)
    if folder:
        with atomic_directory(Path(folder) / name) as part:
            shutil.copytree(bundle, part, dirs_exist_ok=True)


def kept(name: str) -> Path:
    """A bundle that was kept.

    Where no folder is named the test is skipped. One that lacks the bundle fails it: else a run on
    bundles of before would pass by skipping most of itself.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"torch, which makes bundles, is not installed, and {VARIABLE} names no folder")
    path = Path(folder) / name
    if not path.is_dir():
        pytest.fail(f"{folder} has no bundle {name}; run make test-runtime")
    return path
