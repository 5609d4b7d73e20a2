"""Scenarios of streams, of pauses and of cold starts: what is computed, who takes turns."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_bench import made_bench, rows_of
from sample_rows import sample_report
from small_bundles import copied, note_graphs, nudge

from ifmmin.benchmarks.record import CONTROL, OURS, REFERENCE, measured_noise
from ifmmin.benchmarks.report.summary import measure
from ifmmin.benchmarks.scenarios import stream as streaming
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.contenders import Contender, RunConfig
from ifmmin.benchmarks.scenarios.plan import MONOLITH
from ifmmin.benchmarks.scenarios.start import APART, cold_start, idle
from ifmmin.benchmarks.scenarios.stream import CHANGED, EVERYTHING, Updates
from ifmmin.benchmarks.scenarios.workers import BARE, EAGER
from ifmmin.runtime import Pattern
from ifmmin.runtime.modality import Modality

_bench = partial(made_bench, rounds=3)


def test_updates_compute_what_they_claim(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted, bench = note_graphs(monkeypatch), _bench(bundle)
    predictor = bench.predictor(RunConfig("onnxruntime-cpu", "fp32", 1))
    assert predictor is not None
    for what, wanted in ((CHANGED, ["a"]), (EVERYTHING, ["a", "t"])):
        update = Updates(bench, predictor, Pattern.parse("a_t"), 20, what)
        noted.calls.clear()
        update()
        assert noted.called("summary") == wanted
    # The update is that of all frames: those of the past and the new one.
    features = bench.features({Modality.A: 22, Modality.T: 22})
    np.testing.assert_allclose(update().logits, predictor.predict(features).logits, atol=1e-4)


def test_the_whole_again_where_an_engine_is_too_short(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PASTS", (5, 4000))
    monkeypatch.setattr(streaming, "LATE_SECONDS", (1,))
    monkeypatch.setattr(streaming, "PROFILED", {"onnxruntime-cpu"})
    bench = _bench(bundle, patterns=(Pattern.parse("a"),))
    rows = streaming.stream(bench)
    again = rows_of(rows, streaming.RERUN)
    assert {row.lengths["a"] for row in again} == {5}
    assert {row.lengths["a"] for row in rows_of(rows, OURS)} >= {5, 4000}
    ((_, what, _),) = bench.refused
    assert what == "whole again, onnxruntime-cpu"
    assert "4000 were wanted" in bench.refused.popitem()[1]


def test_streams_alone_and_together(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PASTS", (5, 9))
    monkeypatch.setattr(streaming, "LATE_SECONDS", (1, 2))
    bench = _bench(bundle)
    rows = streaming.stream(bench)
    assert {row.pattern for row in rows} == {"a", "a_t"}
    assert {row.contender for row in rows} == {
        OURS, streaming.RERUN, streaming.ANEW, REFERENCE,
    }  # fmt: skip
    assert {row.lengths["a"] for row in rows if row.part == streaming.AGE} == {10, 20}
    assert {row.part for row in rows if row.contender == streaming.ANEW} == {streaming.ANSWER}
    many = streaming.streams(bench)
    together = [OURS, streaming.ALONE, streaming.SINGLE, REFERENCE]
    assert [row.contender for row in many] == together * 2
    for found in (rows, many):  # the reference was timed under every condition of ours
        marked = {row.group for row in found if row.contender == REFERENCE}
        assert marked == {row.group for row in found if row.contender == OURS}
    assert {(row.streams, row.unit) for row in many} == {(64, "1/s")}
    # All of it is our own, so that every row says by what it was answered.
    assert {(row.backend, row.precision) for row in rows + many} == {("onnxruntime-cpu", "fp32")}
    assert len({row.key for row in rows + many}) == len(rows + many)


def test_precisions_take_turns_and_are_told_against_full_precision(make_bundle: Any) -> None:
    """What a head in 8 bits gains, and what is saved where only what changed is computed."""
    bundle = make_bundle(precisions=("fp32", "fp16", "int8"))
    bench = _bench(bundle, precisions=("fp32", "int8"), patterns=(Pattern.parse("a_t"),))
    rows = [row for row in streaming.stream(bench) if row.part == streaming.ANSWER]
    run_configs = {(row.contender, row.precision) for row in rows}
    ours = {(name, p) for name in (OURS, streaming.ANEW) for p in ("fp32", "int8")}
    assert run_configs == ours | {(REFERENCE, "fp32")}
    assert len({row.group for row in rows}) == 1
    items = measure(sample_report(rows=tuple(rows)), "stream")
    bases = {item.baseline.key for item in items if item.baseline is not None}
    assert [key[-3:] for key in bases] == [(streaming.ANEW, "onnxruntime-cpu", "fp32")]
    assert sum(item.gain is not None for item in items) == 3


def test_nothing_to_stream(make_bundle: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = _bench(make_bundle(("a",), shapes=("latency",)))
    assert streaming.stream(bench) == []
    assert "no graphs for streams" in " ".join(bench.refused.values())
    monkeypatch.setattr(Bench, "contenders", lambda self, pattern, threads: [])
    started = time.perf_counter()
    assert idle(_bench(bundle)) == []
    assert time.perf_counter() - started < 5


def test_everyone_waits_together_and_takes_turns_to_be_first(bundle: Path) -> None:
    bench = _bench(bundle, checkpoint=bundle.parent / "model.safetensors", peers=(MONOLITH,))
    started = time.perf_counter()
    rows = idle(bench, pause=0.2, pauses=3)
    took = time.perf_counter() - started
    assert took > 3 * (0.2 + 5 * APART)
    after = [row for row in rows if row.part == "after 0.2 s"]
    busy = [row for row in rows if row.part == "busy"]
    assert len(after) == len(busy) == len(rows) / 2 == 6
    assert {(row.contender, row.pattern) for row in after} == {
        (name, pattern) for name in (OURS, CONTROL, MONOLITH) for pattern in ("a", "a_t")
    }
    assert all(len(row.samples) == 3 and min(row.samples) > 0 for row in after)
    assert all(len(row.samples) == 3 for row in busy)
    assert {row.unit for row in rows} == {"s"}
    # Each pause another is the first: ours and the monolith before the A/A control.
    first = {row.note.partition("the first after pause ")[2][:1]: row for row in after}
    first.pop("")
    assert sorted(first) == ["1", "2", "3"]
    assert CONTROL not in {row.contender for row in first.values()}
    assert sum("never the first" in row.note for row in after) == 3


def test_what_a_pause_costs_shows(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a contender that is slow after rest, and one that is not."""

    class Sleepy:
        last = time.perf_counter()

        def __call__(self, inputs: Any) -> None:
            rested, self.last = time.perf_counter() - self.last > 0.1, time.perf_counter()
            if rested:
                time.sleep(0.05)

    def contenders(self: Bench, pattern: Pattern, threads: int) -> list[Contender]:
        config = RunConfig("made up", "fp32", 1)
        calls: dict[str, Any] = {"sleepy": Sleepy(), "awake": lambda inputs: None}
        return [Contender(name, call, config) for name, call in calls.items()]

    monkeypatch.setattr(Bench, "contenders", contenders)
    rows = idle(_bench(bundle, patterns=(Pattern.parse("a"),)), pause=0.15, pauses=2)
    middle = {(row.contender, row.part): float(np.median(row.samples)) for row in rows}
    assert middle["sleepy", "after 0.15 s"] > 0.05
    assert middle["sleepy", "busy"] < 0.04
    assert middle["awake", "after 0.15 s"] < 0.04


PARTS = ["process", "import", "load", "first answer", ""]
A, A_T = Pattern.parse("a"), Pattern.parse("a_t")

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def test_parts_add_up_for_every_contender(bundle: Path) -> None:
    checkpoint = bundle.parent / "model.safetensors"
    bench = made_bench(bundle, patterns=(A_T,), checkpoint=checkpoint)
    started = time.perf_counter()
    rows = cold_start(bench)
    took = time.perf_counter() - started
    assert not bench.refused
    contenders = {OURS, CONTROL, BARE, MONOLITH, EAGER, REFERENCE}
    assert {row.contender for row in rows} == contenders
    for contender in contenders:
        found = rows_of(rows, contender)
        assert [row.part for row in found] == PARTS, contender
        assert {row.unit for row in found} == {"s"}
        assert all(len(row.samples) == 1 and "page cache warm" in row.note for row in found)
        parts = [row.samples[0] for row in found]
        assert sum(parts[:-1]) == pytest.approx(parts[-1], abs=1e-9)
        assert min(parts) > 0
        assert parts[-1] < took
    assert len({row.group for row in rows}) == len(PARTS), "not the same condition for all"
    assert {row.backend for row in rows_of(rows, OURS)} == {"onnxruntime-cpu"}
    assert "of the network" in rows_of(rows, EAGER)[0].note


def test_rounds_and_patterns_without_a_checkpoint(bundle: Path) -> None:
    bench = made_bench(bundle, rounds=2, seconds=600.0, peers=(MONOLITH,))
    rows = cold_start(bench)
    assert {row.contender for row in rows} == {OURS, CONTROL, BARE, REFERENCE}
    assert "no checkpoint was given" in bench.refused["latency", MONOLITH, 1]
    assert [row.pattern for row in rows_of(rows, OURS)] == ["a"] * 5 + ["a_t"] * 5
    assert all(len(row.samples) == 2 for row in rows)
    assert set(measured_noise(rows)["cold-start"]) == {"a", "a_t"}


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (nudge, "its answer is wrong: a logit is off"),
        (lambda folder, file: (folder / file).unlink(), "cannot be"),
    ],
)
def test_who_fails_is_not_timed(bundle: Path, tmp_path: Path, break_it: Any, reason: str) -> None:
    bench = made_bench(copied(bundle, tmp_path), patterns=(A,))
    assert len(bench.ours(A, 1)) == 2  # loaded here before the graph is another one
    break_it(bench.bundle.directory, bench.bundle.entry(A).file)
    rows = cold_start(bench)
    failed = [row for row in rows if row.contender != REFERENCE]
    assert [row.contender for row in failed] == [OURS, CONTROL, BARE]
    assert not any(row.samples for row in failed)
    for row in rows[:2]:
        assert reason in row.note


def test_an_engine_is_built_apart_and_in_time(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ifmmin.benchmarks.scenarios.start.BUILDERS", ("onnxruntime-cpu",))
    rows = cold_start(made_bench(bundle, rounds=9, seconds=1e-9, patterns=(A,)))
    assert {len(row.samples) for row in rows} == {1}
    (row,) = [row for row in rows if row.part == "build"]
    assert row.contender == OURS
    assert len(row.samples) == 1
    assert "empty cache" in row.note
    # It is no part of a usual start.
    whole = next(row for row in rows_of(rows, OURS) if row.part == "")
    parts = [r.samples[0] for r in rows_of(rows, OURS) if r.part in PARTS[:-1]]
    assert whole.samples[0] == pytest.approx(sum(parts), abs=1e-9)
