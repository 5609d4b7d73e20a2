"""Scenarios of streams: what an update computes, who takes turns, what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_report import sample_report
from small_bundles import small_bundle

from ifmmin.benchmarks.record import OURS, YARDSTICK
from ifmmin.benchmarks.report.summary import measure
from ifmmin.benchmarks.scenarios import streaming
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.entrant import Way
from ifmmin.benchmarks.scenarios.plan import Plan
from ifmmin.benchmarks.scenarios.streaming import CHANGED, EVERYTHING, Updates
from ifmmin.runtime import Pattern
from ifmmin.runtime.modality import Modality


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_network: Any) -> Path:
    return small_bundle(make_network, tmp_path_factory)


def _bench(bundle: Path, **more: Any) -> Bench:
    return Bench(Plan(bundle=bundle, rounds=3, warm_up=1, **more), lambda line: None)


def test_updates_of_streams_compute_what_they_claim(bundle: Path) -> None:
    bench = _bench(bundle)
    predictor = bench.predictor(Way("onnxruntime-cpu", "fp32", 1))
    assert predictor is not None
    pattern, ran = Pattern.parse("a_t"), []
    engine = predictor.stream()._engine
    for modality, run in engine._summaries.items():

        def counted(inputs: Any, run: Any = run, name: str = modality.value) -> Any:
            ran.append(name)
            return run(inputs)

        engine._summaries[modality] = counted
    update = Updates(bench, predictor, pattern, 20, CHANGED)
    ran.clear()
    update()
    assert ran == ["a"]
    update = Updates(bench, predictor, pattern, 20, EVERYTHING)
    ran.clear()
    update()
    assert ran == ["a", "t"]
    # The update is that of all frames: those of the past and the new one.
    wanted = bench.features({Modality.A: 22, Modality.T: 22})
    np.testing.assert_allclose(update().logits, predictor.predict(wanted).logits, atol=1e-4)


def test_streams_are_measured_alone_and_together(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PASTS", (5, 9))
    monkeypatch.setattr(streaming, "LATE_SECONDS", (1, 2))
    bench = _bench(bundle)
    rows = streaming.stream(bench)
    assert {row.pattern for row in rows} == {"a", "a_t"}
    assert {row.contender for row in rows} == {
        OURS, streaming.RERUN, streaming.ANEW, YARDSTICK,
    }  # fmt: skip
    assert {row.lengths["a"] for row in rows if row.part == streaming.AGE} == {10, 20}
    assert {row.part for row in rows if row.contender == streaming.ANEW} == {streaming.ANSWER}
    many = streaming.streams(bench)
    together = [OURS, streaming.ALONE, streaming.SINGLE, YARDSTICK]
    assert [row.contender for row in many] == together * 2
    for found in (rows, many):  # the reference was timed under every condition of ours
        marked = {row.group for row in found if row.contender == YARDSTICK}
        assert marked == {row.group for row in found if row.contender == OURS}
    assert {(row.streams, row.unit) for row in many} == {(64, "1/s")}
    # All of it is our own, so that every row says by what it was answered.
    assert {(row.backend, row.precision) for row in rows + many} == {("onnxruntime-cpu", "fp32")}
    assert len({row.key for row in rows + many}) == len(rows + many)


def test_precisions_take_turns_and_are_told_against_full_precision(
    tmp_path_factory: pytest.TempPathFactory, make_network: Any
) -> None:
    """What a head in 8 bits gains, and what is saved where only what changed is computed."""
    bundle = small_bundle(
        make_network, tmp_path_factory, ("a", "a_t"), shapes=("latency", "stream"),
        precisions=("fp32", "int8"),
    )  # fmt: skip
    bench = _bench(bundle, precisions=("fp32", "int8"), patterns=(Pattern.parse("a_t"),))
    rows = [row for row in streaming.stream(bench) if row.part == streaming.ANSWER]
    ways = {(row.contender, row.precision) for row in rows}
    ours = {(name, p) for name in (OURS, streaming.ANEW) for p in ("fp32", "int8")}
    assert ways == ours | {(YARDSTICK, "fp32")}
    assert len({row.group for row in rows}) == 1
    items = measure(sample_report(rows=tuple(rows)), "stream")
    bases = {item.baseline.key for item in items if item.baseline is not None}
    assert [key[-3:] for key in bases] == [(streaming.ANEW, "onnxruntime-cpu", "fp32")]
    assert sum(item.gain is not None for item in items) == 3


def test_a_bundle_without_stream_graphs_leaves_streams_out(
    tmp_path_factory: pytest.TempPathFactory, make_network: Any
) -> None:
    bundle = small_bundle(make_network, tmp_path_factory, ("a",), shapes=("latency",))
    bench = _bench(bundle)
    assert streaming.stream(bench) == []
    assert "no graphs for streams" in " ".join(bench.refused.values())
