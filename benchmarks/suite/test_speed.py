"""pytest-benchmark suite: utterances, starts, streams and training updates, one call at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifmmin.benchmarks.peers.training import BATCH, STEPS, draw_utterances, eager_steps, our_steps
from ifmmin.benchmarks.record import OURS
from ifmmin.benchmarks.scenarios import stream
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.contenders import RunConfig
from ifmmin.benchmarks.scenarios.plan import MONOLITH, ORDINARY
from ifmmin.benchmarks.scenarios.start import Starter
from ifmmin.benchmarks.scenarios.worker_start import SessionRuntime
from ifmmin.benchmarks.scenarios.workers import BARE, ChildJob, bare, ours
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern
from ifmmin.runtime.predictor import Predictor

CONFIG = RunConfig("onnxruntime-cpu", "fp32", 1)
STREAM_PATTERNS = [Pattern.parse("a"), Pattern.parse("a_v_t")]


@pytest.mark.parametrize("name", [OURS, MONOLITH])
@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_one_utterance_on_one_thread(
    benchmark: Any, bench: Bench, pattern: Pattern, name: str
) -> None:
    benchmark.group = f"pattern {pattern}, one utterance"
    (contender,) = [one for one in bench.contenders(pattern, 1) if one.name == name]
    features = bench.ordinary(pattern)
    benchmark(contender.prepared(features, ORDINARY))


def _job(bench: Bench, name: str) -> ChildJob:
    """Pattern a, 50 frames, one thread: the predictor, or a bare session beside it."""
    pattern = Pattern.parse("a")
    (first, _) = ours(bench, pattern, 1)
    return first if name == OURS else bare(bench, pattern, first)


@pytest.mark.parametrize("name", [BARE, OURS])
def test_a_call(benchmark: Any, bench: Bench, name: str) -> None:
    """The predictor may add 15 us: validation, softmax, the answer."""
    benchmark.group = "one call of pattern a, 50 frames, one thread"
    job = _job(bench, name)
    if name == OURS:
        benchmark(partial(job.contender.call, job.inputs))
        return
    session = SessionRuntime(job.words)
    session.load()
    assert np.allclose(session.answer(job.inputs), job.logits, atol=1e-4)
    benchmark(partial(session.answer, job.inputs))


@pytest.mark.parametrize("name", [BARE, OURS])
def test_a_cold_start(benchmark: Any, bench: Bench, tmp_path: Path, name: str) -> None:
    """A fresh process up to its first answer; the predictor may take 1.25 times as long."""
    benchmark.group = "a fresh process up to its first answer, pattern a"
    job = _job(bench, name)
    job.write_inputs(tmp_path)
    starter = Starter(job, {**job.words, "inputs": str(tmp_path)})
    benchmark.pedantic(starter.start, rounds=15, warmup_rounds=2)
    assert not starter.failure


def _predictor(bench: Bench) -> Predictor:
    predictor = bench.predictor(CONFIG)
    assert predictor is not None
    return predictor


@pytest.mark.parametrize("name", [OURS, stream.RERUN])
@pytest.mark.parametrize("past", stream.PASTS)
@pytest.mark.parametrize("pattern", STREAM_PATTERNS, ids=str)
def test_an_update_after_one_acoustic_frame(
    benchmark: Any, bench: Bench, pattern: Pattern, past: int, name: str
) -> None:
    """An update computes everything that could change; asked again is the whole so far."""
    benchmark.group = f"pattern {pattern}, one more frame after {past}"
    predictor = _predictor(bench)
    lengths = {m: past if m == Modality.A else ORDINARY[m] for m in pattern}
    call: Callable[[], Any] = partial(predictor.predict, bench.features(lengths))
    if name == OURS:
        call = stream.Updates(bench, predictor, pattern, past, stream.CHANGED)
    benchmark(call)


@pytest.mark.parametrize("name", [OURS, stream.ALONE, stream.SINGLE])
@pytest.mark.parametrize("pattern", STREAM_PATTERNS, ids=str)
def test_many_streams(benchmark: Any, bench: Bench, pattern: Pattern, name: str) -> None:
    """A frame for each of 64 streams, and 64 answers."""
    benchmark.group = f"pattern {pattern}, {stream.GROUP} streams"
    benchmark(stream.many_streams(bench, _predictor(bench), pattern, name))


@pytest.mark.parametrize("name", ["ifmmin", "reference layout"])
def test_stage_2_updates(benchmark: Any, name: str) -> None:
    """Training, beside the layout of the reference code."""
    benchmark.group = f"training, {STEPS} updates of {BATCH} utterances"
    make = our_steps if name == "ifmmin" else eager_steps
    benchmark.pedantic(make(draw_utterances(BATCH * 8)), rounds=3, warmup_rounds=1)
    benchmark.extra_info["samples_per_second"] = STEPS * BATCH / benchmark.stats.stats.median
