"""Cold starts: parts that add up, the same work for all, and no figure for a wrong answer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from small_bundles import copied, nudge

from ifmmin.benchmarks.record import OURS, TWIN, YARDSTICK, Row, measured_noise
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.cold_start import cold_start
from ifmmin.benchmarks.scenarios.fresh import BARE, EAGER
from ifmmin.benchmarks.scenarios.plan import MONOLITH, Plan
from ifmmin.runtime import Pattern

PARTS = ["process", "import", "load", "first answer", ""]
A, A_T = Pattern.parse("a"), Pattern.parse("a_t")

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def _bench(bundle: Path, **more: Any) -> Bench:
    return Bench(Plan(bundle=bundle, warm_up=1, **more), lambda line: None)


def _of(rows: list[Row], contender: str) -> list[Row]:
    return [row for row in rows if row.contender == contender]


def test_parts_add_up_for_every_contender(bundle: Path) -> None:
    checkpoint = bundle.parent / "model.safetensors"
    bench = _bench(bundle, rounds=1, patterns=(A_T,), checkpoint=checkpoint)
    started = time.perf_counter()
    rows = cold_start(bench)
    took = time.perf_counter() - started
    assert not bench.refused
    contenders = {OURS, TWIN, BARE, MONOLITH, EAGER, YARDSTICK}
    assert {row.contender for row in rows} == contenders
    for contender in contenders:
        found = _of(rows, contender)
        assert [row.part for row in found] == PARTS, contender
        assert {row.unit for row in found} == {"s"}
        assert all(len(row.samples) == 1 and "page cache warm" in row.note for row in found)
        parts = [row.samples[0] for row in found]
        assert sum(parts[:-1]) == pytest.approx(parts[-1], abs=1e-9)
        assert min(parts) > 0
        assert parts[-1] < took
    assert len({row.group for row in rows}) == len(PARTS), "not the same condition for all"
    assert {row.backend for row in _of(rows, OURS)} == {"onnxruntime-cpu"}
    assert "of the network" in _of(rows, EAGER)[0].note


def test_rounds_and_patterns_without_a_checkpoint(bundle: Path) -> None:
    bench = _bench(bundle, rounds=2, seconds=600.0, peers=(MONOLITH,))
    rows = cold_start(bench)
    assert {row.contender for row in rows} == {OURS, TWIN, BARE, YARDSTICK}
    assert "no checkpoint was given" in bench.refused[MONOLITH, 1]
    assert [row.pattern for row in _of(rows, OURS)] == ["a"] * 5 + ["a_t"] * 5
    assert all(len(row.samples) == 2 for row in rows)
    assert set(measured_noise(rows)["cold-start"]) == {"a", "a_t"}


def _wrong(bundle: Path, entry: Any) -> None:
    nudge(bundle, entry.file)


def _gone(bundle: Path, entry: Any) -> None:
    (bundle / entry.file).unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"), [(_wrong, "its answer is wrong: a logit is off by"), (_gone, "cannot be")]
)
def test_who_answers_otherwise_or_not_at_all_is_not_timed(
    bundle: Path, tmp_path: Path, spoil: Any, reason: str
) -> None:
    bench = _bench(copied(bundle, tmp_path), rounds=1, patterns=(A,))
    assert len(bench.ours(A, 1)) == 2  # loaded here before the graph is another one
    spoil(bench.bundle.directory, bench.bundle.entry(A))
    rows = cold_start(bench)
    failed = [row for row in rows if row.contender != YARDSTICK]
    assert [row.contender for row in failed] == [OURS, TWIN, BARE]
    assert not any(row.samples for row in failed)
    for row in rows[:2]:
        assert reason in row.note


def test_an_engine_is_built_apart_and_no_round_begins_when_time_is_over(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ifmmin.benchmarks.scenarios.cold_start.BUILDERS", ("onnxruntime-cpu",))
    rows = cold_start(_bench(bundle, rounds=9, seconds=1e-9, patterns=(A,)))
    assert {len(row.samples) for row in rows} == {1}
    (row,) = [row for row in rows if row.part == "build"]
    assert row.contender == OURS
    assert len(row.samples) == 1
    assert "empty cache" in row.note
    # It is no part of a usual start.
    whole = next(row for row in _of(rows, OURS) if row.part == "")
    parts = [r.samples[0] for r in _of(rows, OURS) if r.part in PARTS[:-1]]
    assert whole.samples[0] == pytest.approx(sum(parts), abs=1e-9)
