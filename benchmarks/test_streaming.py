"""pytest-benchmark suite: what scenarios `stream` and `streams` time, one call at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.predictor import Predictor

from .record import OURS
from .scenarios.bench import Bench
from .scenarios.contenders import Way
from .scenarios.plan import ORDINARY
from .scenarios.stream import (
    ALONE,
    CHANGED,
    GROUP,
    PASTS,
    RERUN,
    SINGLE,
    Updates,
    one_by_one,
    pushed_alone,
    together,
)

_WAY = Way("onnxruntime-cpu", "fp32", 1)
PATTERNS = [Pattern.parse("a"), Pattern.parse("a_v_t")]


def _predictor(bench: Bench) -> Predictor:
    predictor = bench.predictor(_WAY)
    assert predictor is not None
    return predictor


@pytest.mark.parametrize("contender", [OURS, RERUN])
@pytest.mark.parametrize("past", PASTS)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_an_update_after_one_acoustic_frame(
    benchmark: Any, bench: Bench, pattern: Pattern, past: int, contender: str
) -> None:
    """An update computes everything that could change; asked again is the whole so far."""
    benchmark.group = f"pattern {pattern}, one more frame after {past}"
    predictor = _predictor(bench)
    lengths = {m: past if m == Modality.A else ORDINARY[m] for m in pattern}
    features = bench.features(lengths)
    call: Callable[[], Any] = lambda: predictor.predict(features)  # noqa: E731
    if contender == OURS:
        call = Updates(bench, predictor, pattern, past, CHANGED)
    benchmark(call)


@pytest.mark.parametrize("contender", [OURS, ALONE, SINGLE])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_many_streams(benchmark: Any, bench: Bench, pattern: Pattern, contender: str) -> None:
    """A frame for each of 64 streams, and 64 answers."""
    benchmark.group = f"pattern {pattern}, {GROUP} streams"
    make = {OURS: together, ALONE: pushed_alone, SINGLE: one_by_one}[contender]
    benchmark(make(bench, _predictor(bench), pattern))
