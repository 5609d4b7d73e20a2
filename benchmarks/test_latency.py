"""pytest-benchmark suite: what scenario `latency` times, one call at a time."""

from __future__ import annotations

from typing import Any

import pytest

from ifmmin.runtime.modality import ALL_PATTERNS, Pattern

from .record import OURS
from .scenarios.bench import Bench
from .scenarios.plan import MONOLITH, ORDINARY


@pytest.mark.parametrize("contender", [OURS, MONOLITH])
@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_one_utterance_on_one_thread(
    benchmark: Any, bench: Bench, pattern: Pattern, contender: str
) -> None:
    benchmark.group = f"pattern {pattern}, one utterance"
    (entrant,) = [one for one in bench.entrants(pattern, 1) if one.name == contender]
    features = bench.features({m: ORDINARY[m] for m in pattern})
    benchmark(entrant.prepared(features, ORDINARY))
