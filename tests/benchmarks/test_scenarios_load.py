"""MLPerf's scenarios on a bundle: rows say who made the load, and none is of wrong answers."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from small_bundles import small_bundle

from ifmmin.benchmarks.loadgen import AnswerCheck, Length, Result
from ifmmin.benchmarks.record import OURS, Row
from ifmmin.benchmarks.scenarios import load as scenario
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.load import load
from ifmmin.benchmarks.scenarios.plan import MONOLITH, Plan
from ifmmin.runtime import Pattern
from ifmmin.runtime.predictor import Predictor

TINY = Length(name="tiny", seconds=0.02, offline_samples=8, probe_seconds=0.02, probes=1)
KINDS = {"single-stream", "multi-stream", "offline", "server"}
A = Pattern.parse("a")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_network: Any) -> Path:
    return small_bundle(make_network, tmp_path_factory)


def _bench(bundle: Path, **more: Any) -> Bench:
    return Bench(Plan(bundle=bundle, rounds=1, **more), lambda line: None)


def _kinds(rows: list[Row], **wanted: str) -> Counter[str]:
    return Counter(
        row.scenario
        for row in rows
        if all(getattr(row, name) == value for name, value in wanted.items())
    )


def test_every_scenario_of_both_patterns_and_both_contenders(bundle: Path) -> None:
    checkpoint = bundle.parent / "model.safetensors"
    rows = load(
        _bench(bundle, checkpoint=checkpoint, peers=(MONOLITH,)), length=TINY, generator="own"
    )
    for pattern in ("a", "a_t"):
        assert _kinds(rows, contender=OURS, pattern=pattern) == dict.fromkeys(KINDS, 1)
        peer = dict.fromkeys(KINDS - {"multi-stream"}, 1)
        assert _kinds(rows, contender=MONOLITH, pattern=pattern) == peer
    for row in rows:
        assert row.unit == ("1/s" if row.scenario in ("offline", "server") else "s")
        assert row.batch == (8 if row.scenario == "multi-stream" else 1)
        assert row.lengths == {
            letter: {"a": 50, "t": 22}[letter] for letter in row.pattern.split("_")
        }
        assert "load by own; not valid by MLPerf's rules (" in row.note
        assert "a run of 0.02 s; MLPerf's rules want 600 s" in row.note
        assert "all 32 answers of the accuracy run are " in row.note
        assert "one by one" not in row.note
        if row.scenario != "server":  # which a busy machine may not hold
            assert min(row.samples) > 0
    assert all(len(row.samples) > 99 for row in rows if row.unit == "s")


@pytest.mark.skipif(find_spec("mlperf_loadgen") is None, reason="MLPerf's LoadGen is not installed")
def test_load_is_made_by_mlperf_where_it_is_installed(bundle: Path) -> None:
    rows = load(_bench(bundle, patterns=(A,)), length=TINY)
    assert _kinds(rows) == dict.fromkeys(KINDS, 1)
    assert all("load by loadgen " in row.note for row in rows)


def test_batches_that_are_answered_one_by_one_say_so(
    tmp_path_factory: pytest.TempPathFactory, make_network: Any
) -> None:
    plain = small_bundle(make_network, tmp_path_factory, ("a", "t"), shapes=("latency",))
    rows = load(_bench(plain, patterns=(A,)), length=TINY, generator="own")
    told = {row.scenario for row in rows if "ifmmin-export --shape throughput adds" in row.note}
    assert told == {"offline", "multi-stream"}


def test_a_wrong_answer_under_load_leaves_no_figure(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: batches that answer otherwise than the same utterances alone."""
    right = Predictor.predict_batch

    def wrong(self: Predictor, utterances: Any, **options: Any) -> Any:
        answers = right(self, utterances, **options)
        return [a._replace(logits=a.logits + np.float32(0.01)) for a in answers]

    monkeypatch.setattr(Predictor, "predict_batch", wrong)
    rows = {row.scenario: row for row in load(_bench(bundle, patterns=(A,)), length=TINY)}
    for name in ("offline", "multi-stream"):
        assert not rows[name].samples
        assert "differ" in rows[name].note
    assert rows["single-stream"].samples, "one utterance a time does not go through batches"


def test_none_begins_when_time_is_over(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "LONGEST_SECONDS", -1.0)
    rows = load(_bench(bundle, patterns=(A,)), length=TINY)
    assert _kinds(rows) == dict.fromkeys(KINDS, 1)
    assert all("were over; take --full-rules" in row.note and not row.samples for row in rows)
    assert {row.scenario for row in rows if row.unit == "1/s"} == {"offline", "server"}


def test_full_rules_take_their_time(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "LONGEST_SECONDS", -1.0)
    monkeypatch.setattr(scenario, "FULL", replace(TINY, name="full"))
    rows = load(_bench(bundle, patterns=(A,), full_rules=True), generator="own")
    assert all(row.samples for row in rows if row.scenario != "server")
    assert _kinds(rows) == dict.fromkeys(KINDS, 1)
    assert {row.lengths["a"] for row in rows} == {50}


def _result(kind: Any, **more: Any) -> Result:
    given: dict[str, Any] = {
        "scenario": kind,
        "system": OURS,
        "generator": "loadgen 6.0",
        "valid": True,
        "why_not": (),
        "metrics": {"p50": 0.001, "p90": 0.002, "p99": 0.0123, "rate": 0.0},
        "queries": 123_456,
        "samples": (),
        "seconds": 1.0,
        "settings": {"latency_limit": 0.01},
        "accuracy": AnswerCheck(samples=32, max_difference=2e-6, agreement=1.0),
    }
    return Result(**given | more)


def test_notes_say_what_a_sample_is() -> None:
    note = scenario._note(_result("single-stream"))
    assert "too many to keep: the sample is the percentile; p90 2 ms over 123,456" in note
    assert "load by loadgen 6.0; valid by MLPerf's rules; all 32" in note
    assert "no rate held the limit of 10 ms" in scenario._note(_result("server"))
    held = _result("server", metrics={"p99": 0.0081, "rate": 500.0})
    assert scenario._note(held).startswith("99 % within 8.1 ms, limit 10 ms")
