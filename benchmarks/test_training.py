"""pytest-benchmark suite: training updates beside those of the reference's layout."""

from __future__ import annotations

from typing import Any

import pytest

from ifmmin.train.data.corpus import Utterance

from .peers.training import BATCH, STEPS, draw_utterances, eager_steps, our_steps


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    return draw_utterances(BATCH * 8)


@pytest.mark.parametrize("contender", ["ifmmin", "reference layout"])
def test_stage_2_updates(benchmark: Any, utterances: list[Utterance], contender: str) -> None:
    benchmark.group = f"training, {STEPS} updates of {BATCH} utterances"
    make = our_steps if contender == "ifmmin" else eager_steps
    benchmark.pedantic(make(utterances), rounds=3, warmup_rounds=1)
    benchmark.extra_info["samples_per_second"] = STEPS * BATCH / benchmark.stats.stats.median
