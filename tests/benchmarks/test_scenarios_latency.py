"""Scenarios of whole utterances and of streams: who takes part, what is timed, what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundles import nudge, small_bundle

from ifmmin.benchmarks.control import measured_noise
from ifmmin.benchmarks.record import OURS, TWIN, Row
from ifmmin.benchmarks.scenarios import streaming
from ifmmin.benchmarks.scenarios.bench import Bench, Way
from ifmmin.benchmarks.scenarios.latency import drawn, latency, length, recorded_lengths
from ifmmin.benchmarks.scenarios.plan import BATCHES, Plan
from ifmmin.benchmarks.scenarios.throughput import throughput
from ifmmin.benchmarks.timing import time_together
from ifmmin.runtime import Pattern
from ifmmin.runtime.errors import CheckpointError
from ifmmin.runtime.modality import MODALITIES, Modality

PATTERNS = ("a", "t", "a_t")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_network: Any) -> Path:
    return small_bundle(make_network, tmp_path_factory)


@pytest.fixture(autouse=True)
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor is measured in tests of its own, and takes seconds."""
    rates = Bench.rates

    def known(self: Bench, threads: int) -> Any:
        self.measured_rates.setdefault(threads, None)
        return rates(self, threads)

    monkeypatch.setattr(Bench, "rates", known)


def _bench(bundle: Path, **more: Any) -> Bench:
    return Bench(Plan(bundle=bundle, rounds=3, warm_up=1, **more), lambda line: None)


def _by(rows: list[Row], contender: str) -> list[Row]:
    return [row for row in rows if row.contender == contender]


def test_every_pattern_meets_its_twin_and_the_monolith(bundle: Path) -> None:
    checkpoint = bundle.parent / "model.safetensors"
    bench = _bench(bundle, checkpoint=checkpoint, peers=("monolith",), threads=(1, 2))
    rows = latency(bench)
    assert len(rows) == len(PATTERNS) * 2 * 3
    for name in (OURS, TWIN, "monolith"):
        found = _by(rows, name)
        assert [row.pattern for row in found] == [*PATTERNS, *PATTERNS]
        assert [row.threads for row in found] == [1, 1, 1, 2, 2, 2]
        assert all(len(row.samples) == 3 and min(row.samples) > 0 for row in found)
    assert {row.group for row in _by(rows, OURS)} == {row.group for row in _by(rows, "monolith")}
    assert _by(rows, OURS)[2].lengths == {"a": 50, "t": 22}
    assert "of the network" in _by(rows, "monolith")[0].note
    assert set(measured_noise(rows)["latency"]) == set(PATTERNS)
    assert bench.predictor(Way("onnxruntime-cpu", "fp32", 1)) is not bench.predictor(
        Way("onnxruntime-cpu", "fp32", 1), TWIN
    )


def test_lengths_and_batches_are_told(bundle: Path) -> None:
    bench = _bench(bundle, patterns=(Pattern.parse("a"),))
    assert [row.lengths["a"] for row in _by(length(bench), OURS)] == [10, 50, 100, 400]
    rows = _by(throughput(bench), OURS)
    assert [row.batch for row in rows] == list(BATCHES)
    assert {row.unit for row in rows} == {"1/s"}


def test_drawn_lengths_are_those_that_were_recorded(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[Mapping[Modality, int]] = [
        dict(zip(MODALITIES, n, strict=True)) for n in ((3, 4, 5), (30, 2, 9))
    ]
    bench = _bench(bundle, patterns=(Pattern.parse("a_t"),), lengths=tuple(lengths))
    seen = []
    predictor = bench.predictor(Way("onnxruntime-cpu", "fp32", 1))
    assert predictor is not None
    predict = predictor.predict

    def spy(features: Any) -> Any:
        seen.append({str(m): len(x) for m, x in features.items()})
        return predict(features)

    monkeypatch.setattr(predictor, "predict", spy)
    (row,) = _by(drawn(bench), OURS)
    assert seen[-4:] == [{"a": 3, "t": 5}, {"a": 30, "t": 9}, {"a": 3, "t": 5}, {"a": 30, "t": 9}]
    assert len(row.samples) == 3
    stand_in = recorded_lengths(_bench(bundle))
    assert len({one[Modality.A] for one in stand_in}) > 20
    assert stand_in == recorded_lengths(_bench(bundle))


def test_what_cannot_run_is_left_out_and_named(bundle: Path) -> None:
    bench = _bench(
        bundle,
        backends=("onnxruntime-cpu", "tensorrt"),
        precisions=("fp32", "int8"),
        peers=("monolith",),
    )
    rows = latency(bench)
    assert {(row.contender, row.backend, row.precision) for row in rows} == {
        (OURS, "onnxruntime-cpu", "fp32"), (TWIN, "onnxruntime-cpu", "fp32"),
    }  # fmt: skip
    reasons = {what: reason for (what, _), reason in bench.refused.items()}
    assert "no int8 latency graph" in reasons["onnxruntime-cpu int8 a"]
    assert "tensorrt" in " ".join(reasons).lower()
    assert "no checkpoint was given" in reasons["monolith"]


def test_a_checkpoint_of_another_network_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"not this one")
    with pytest.raises(CheckpointError, match="was made from"):
        _bench(bundle, checkpoint=other)


def test_a_bundle_that_answers_wrongly_cannot_pose_as_its_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, make_network: Any
) -> None:
    """Peers are held against the network, and so are we."""
    from small_bundles import copied

    made = small_bundle(make_network, tmp_path_factory)
    spoilt = copied(made, tmp_path_factory.mktemp("spoilt"))
    nudge(spoilt, "a.latency.fp32.onnx", 3.0)
    bench = _bench(spoilt, checkpoint=made.parent / "model.safetensors", peers=())
    assert {row.pattern for row in latency(bench)} == {"t", "a_t"}
    ((_, reason),) = [x for x in bench.refused.items() if x[0][0].endswith(" a")]
    assert "golden" in reason


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
    update = streaming.Updates(bench, predictor, pattern, 20, streaming.CHANGED)
    ran.clear()
    update()
    assert ran == ["a"]
    update = streaming.Updates(bench, predictor, pattern, 20, streaming.EVERYTHING)
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
    assert {row.contender for row in rows} == {OURS, streaming.RERUN, streaming.EVERYTHING}
    assert {row.lengths["a"] for row in rows if row.part == "age"} == {10, 20}
    many = streaming.streams(bench)
    assert [row.contender for row in many] == [OURS, streaming.SINGLE] * 2
    assert {(row.streams, row.unit) for row in many} == {(64, "1/s")}


def test_a_bundle_without_stream_graphs_leaves_streams_out(
    tmp_path_factory: pytest.TempPathFactory, make_network: Any
) -> None:
    bundle = small_bundle(make_network, tmp_path_factory, ("a",), shapes=("latency",))
    bench = _bench(bundle)
    assert streaming.stream(bench) == []
    assert "no graphs for streams" in " ".join(bench.refused.values())


def test_a_group_of_calls_stops_in_time() -> None:
    calls = {"a": lambda: None, "b": lambda: None}
    found = time_together(calls, repeats=1000, warm_up=0, seconds=0.0)
    assert [len(timing.samples) for timing in found.values()] == [1, 1]
