"""A mixture of clients at a server for some seconds: right answers, and nothing kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ifmmin.runtime import Predictor
from ifmmin.runtime.bundle import shipped
from ifmmin.runtime.modality import Modality

for _name in ("starlette", "websockets"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: the extra serve")

from ifmmin.benchmarks.serving import Mixture, growth, measure_rate, request_bytes, serving  # noqa: E402 - skipped before it is imported


def test_a_mixture_of_clients(root: Path) -> None:
    recordings = sorted((root / "examples" / "recordings").glob("*.wav"))
    outcome = Mixture(shipped(), recordings).run(8.0)
    assert outcome.wrong == []
    for kind in ("a", "t", "a_t", "stream", "listen", "hostile"):
        assert outcome.answered[kind] > 3, kind
    _, files, threads = growth(outcome.resources)
    assert abs(files) < 10
    assert abs(threads) < 3


def test_what_is_wrong_is_seen() -> None:
    """Controls: answers of another bundle's numbers, and something that grows."""
    mixture = Mixture(shipped(), ())
    mixture.spoil()
    assert any(line.startswith(("a: 200", "t: 200", "a_t: 200")) for line in mixture.run(1.0).wrong)
    assert growth([(n, n, 7) for n in range(30)])[:2] == (10.0, 10.0)


def test_a_rate_is_measured() -> None:
    predictor = Predictor(backend="onnxruntime-cpu")
    features = predictor.bundle.golden_inputs()[0]
    request = request_bytes("a", {"a": features[Modality.A]})
    with serving() as server:
        found = asyncio.run(measure_rate(server.port, request, 4, 0.5))
        wrong = asyncio.run(measure_rate(server.port, request_bytes("x", {}), 2, 0.2))
    assert found.errors == 0
    assert found.per_second > 10
    assert 0 < found.p50 <= found.p99
    assert wrong.errors > 0
