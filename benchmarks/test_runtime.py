"""pytest-benchmark suite: what the predictor adds to a bare session, in a call and at the start."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifmmin.runtime.modality import Pattern

from .record import OURS
from .scenarios.bench import Bench
from .scenarios.start import Starter
from .scenarios.worker_start import SessionWay
from .scenarios.workers import BARE, Fresh, bare, ours

CONTENDERS = [BARE, OURS]


def _fresh(bench: Bench, contender: str) -> Fresh:
    """Pattern a, 50 frames, one thread."""
    pattern = Pattern.parse("a")
    (first, _) = ours(bench, pattern, 1)
    return first if contender == OURS else bare(bench, pattern, first)


@pytest.mark.parametrize("contender", CONTENDERS)
def test_a_call(benchmark: Any, bench: Bench, contender: str) -> None:
    """The predictor may add 15 us: validation, softmax, the answer."""
    benchmark.group = "one call of pattern a, 50 frames, one thread"
    fresh = _fresh(bench, contender)
    if contender == OURS:
        benchmark(partial(fresh.entrant.call, fresh.inputs))
        return
    session = SessionWay(fresh.words)
    session.load()
    assert np.allclose(session.answer(fresh.inputs), fresh.logits, atol=1e-4)
    benchmark(partial(session.answer, fresh.inputs))


@pytest.mark.parametrize("contender", CONTENDERS)
def test_a_cold_start(benchmark: Any, bench: Bench, tmp_path: Path, contender: str) -> None:
    """A fresh process up to its first answer; the predictor may take 1.25 times as long."""
    benchmark.group = "a fresh process up to its first answer, pattern a"
    fresh = _fresh(bench, contender)
    fresh.write_inputs(tmp_path)
    starter = Starter(fresh, {**fresh.words, "inputs": str(tmp_path)})
    benchmark.pedantic(starter.start, rounds=15, warmup_rounds=2)
    assert not starter.failure
