"""Fixtures that tests of several scenarios share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from child_processes import children_left
from fake_system import generator_called

from ifmmin.benchmarks.scenarios.bench import Bounds
from ifmmin.benchmarks.scenarios.loadgen.measure import Generator


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., Path]) -> Path:
    """Of the patterns a, t and a_t, not to be changed."""
    return make_bundle()


@pytest.fixture
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a scenario starts and writes is gone when it is done."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert not list(tmp_path.glob("ifmmin-bench-*"))
    assert not children_left()


@pytest.fixture
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor is measured in tests of its own, and takes seconds."""
    monkeypatch.setattr(Bounds, "rates", lambda bounds, threads: None)


@pytest.fixture(params=["own", "loadgen"])
def generator(request: pytest.FixtureRequest) -> Generator:
    """Ours and MLPerf's."""
    return generator_called(request.param)
