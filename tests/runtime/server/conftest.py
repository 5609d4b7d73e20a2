"""Servers that the tests of a file share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_bundles import ALL

for _name in ("starlette", "uvicorn", "grpc", "prometheus_client", "websockets"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: the extra serve")

from served import Served, served  # noqa: E402 - skipped before it is imported


@pytest.fixture(scope="session")
def batches(make_bundle: Callable[..., Path]) -> Path:
    """A tiny bundle of all patterns and shapes."""
    return make_bundle(ALL)


@pytest.fixture(scope="module")
def small(batches: Path) -> Iterator[Served]:
    """A server of it."""
    with served("-b", batches) as server:
        yield server


@pytest.fixture(scope="module")
def speech() -> Iterator[Served]:
    """A server of the bundle that ships."""
    with served() as server:
        yield server
