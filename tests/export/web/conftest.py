"""Folders that `ifmmin-bundle web` wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_bundles import ALL

from ifmmin.export.web.site import write_site
from ifmmin.runtime.bundle import Bundle, shipped


@pytest.fixture(scope="session")
def package(root: Path) -> Path:
    """The package onnxruntime-web of npm."""
    found = root / ".venv" / "onnxruntime-web-1.30.0.tgz"
    if not found.is_file():
        pytest.skip(f"{found.name} is not in .venv: npm pack onnxruntime-web@1.30.0")
    return found


@pytest.fixture(scope="session")
def small(make_bundle: Callable[..., Path]) -> Path:
    """A tiny bundle of all patterns."""
    return make_bundle(ALL)


@pytest.fixture(scope="session")
def small_site(small: Path, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    site = tmp_path_factory.mktemp("web") / "small"
    write_site(Bundle(small), site, package=package)
    return site


@pytest.fixture(scope="session")
def speech_site(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the bundle that ships, with words."""
    site = tmp_path_factory.mktemp("web") / "speech"
    write_site(Bundle(shipped()), site, words=True, package=package)
    return site
