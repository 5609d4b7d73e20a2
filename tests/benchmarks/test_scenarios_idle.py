"""The first call after a pause is another figure than a call in a busy loop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundles import small_bundle

from ifmmin.benchmarks.record import OURS, TWIN
from ifmmin.benchmarks.scenarios.bench import Bench
from ifmmin.benchmarks.scenarios.entrant import Entrant, Way
from ifmmin.benchmarks.scenarios.idle import APART, idle
from ifmmin.benchmarks.scenarios.plan import MONOLITH, Plan
from ifmmin.runtime import Pattern


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_network: Any) -> Path:
    return small_bundle(make_network, tmp_path_factory)


def _bench(bundle: Path, **more: Any) -> Bench:
    return Bench(Plan(bundle=bundle, rounds=4, warm_up=1, **more), lambda line: None)


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
        (name, pattern) for name in (OURS, TWIN, MONOLITH) for pattern in ("a", "a_t")
    }
    assert all(len(row.samples) == 3 and min(row.samples) > 0 for row in after)
    assert all(len(row.samples) == 4 for row in busy)
    assert {row.unit for row in rows} == {"s"}
    # Each pause another is the first: ours and the monolith before the twin.
    first = {row.note.partition("the first after pause ")[2][:1]: row for row in after}
    first.pop("")
    assert sorted(first) == ["1", "2", "3"]
    assert TWIN not in {row.contender for row in first.values()}
    assert sum("never the first" in row.note for row in after) == 3


def test_what_a_pause_costs_shows(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a contender that is slow after rest, and one that is not."""

    class Sleepy:
        last = time.perf_counter()

        def __call__(self, inputs: Any) -> None:
            rested, self.last = time.perf_counter() - self.last > 0.1, time.perf_counter()
            if rested:
                time.sleep(0.05)

    def entrants(self: Bench, pattern: Pattern, threads: int) -> list[Entrant]:
        way = Way("made up", "fp32", 1)
        calls: dict[str, Any] = {"sleepy": Sleepy(), "awake": lambda inputs: None}
        return [Entrant(name, call, way) for name, call in calls.items()]

    monkeypatch.setattr(Bench, "entrants", entrants)
    rows = idle(_bench(bundle, patterns=(Pattern.parse("a"),)), pause=0.15, pauses=2)
    middle = {(row.contender, row.part): float(np.median(row.samples)) for row in rows}
    assert middle["sleepy", "after 0.15 s"] > 0.05
    assert middle["sleepy", "busy"] < 0.04
    assert middle["awake", "after 0.15 s"] < 0.04


def test_nobody_to_wait_is_no_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "entrants", lambda self, pattern, threads: [])
    started = time.perf_counter()
    assert idle(_bench(bundle)) == []
    assert time.perf_counter() - started < 5
