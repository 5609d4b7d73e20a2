"""Scenarios of whole utterances: who takes part, what is timed, what is left out."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_system import MadeClock
from made_bench import made_bench, rows_of
from small_bundles import copied, nudge

from ifmmin.benchmarks import timing
from ifmmin.benchmarks.record import CONTROL, OURS, REFERENCE, measured_noise
from ifmmin.benchmarks.scenarios.contenders import SESSIONS, Contender, RunConfig
from ifmmin.benchmarks.scenarios.latency import latency, length, throughput
from ifmmin.benchmarks.scenarios.plan import BATCHES
from ifmmin.benchmarks.timing import SETTLING, SETTLING_SECONDS, WARM_UP_SECONDS, time_together
from ifmmin.runtime import Pattern
from ifmmin.runtime.errors import CheckpointError
from ifmmin.runtime.modality import Modality

PATTERNS = ("a", "t", "a_t")

pytestmark = pytest.mark.usefixtures("no_probe")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MadeClock:
    """The one by which calls are timed."""
    made = MadeClock()
    monkeypatch.setattr(timing, "time", made)
    return made


_bench = partial(made_bench, rounds=3)


def test_every_pattern_meets_its_control_and_the_monolith(bundle: Path) -> None:
    checkpoint = bundle.parent / "model.safetensors"
    bench = _bench(bundle, checkpoint=checkpoint, peers=("monolith",), threads=(1, 2))
    rows = latency(bench)
    assert len(rows) == len(PATTERNS) * 2 * 4
    for name in (OURS, CONTROL, "monolith", REFERENCE):
        found = rows_of(rows, name)
        assert [row.pattern for row in found] == [*PATTERNS, *PATTERNS]
        assert [row.threads for row in found] == [1, 1, 1, 2, 2, 2]
        assert all(len(row.samples) == 3 and min(row.samples) > 0 for row in found)
    assert {row.group for row in rows_of(rows, OURS)} == {
        row.group for row in rows_of(rows, "monolith")
    }
    assert rows_of(rows, OURS)[2].lengths == {"a": 50, "t": 22}
    assert "of the network" in rows_of(rows, "monolith")[0].note
    assert set(measured_noise(rows)["latency"]) == set(PATTERNS)
    assert bench.predictor(RunConfig("onnxruntime-cpu", "fp32", 1)) is not bench.predictor(
        RunConfig("onnxruntime-cpu", "fp32", 1), CONTROL
    )


def test_rounds_ask_other_sessions_of_the_same_graph(bundle: Path) -> None:
    bench, pattern = _bench(bundle, patterns=(Pattern.parse("a"),)), Pattern.parse("a")
    contenders = bench.marked(pattern, 1)
    assert [one.name for one in contenders] == [OURS, CONTROL, REFERENCE]
    features = bench.features({Modality.A: 12})
    for one in contenders:
        calls = one.in_turns(features, {})
        assert len(calls) == SESSIONS
        answers = [getattr(said, "logits", said) for said in (call() for call in calls)]
        for answer in answers[1:]:
            np.testing.assert_array_equal(answer, answers[0])
    calls_of_ours: list[Any] = [c for one in contenders[:2] for c in (one.call, *one.others)]
    assert len({id(call.__self__) for call in calls_of_ours}) == 2 * SESSIONS  # no predictor twice


def test_a_reference_workload_of_the_processor_says_nothing_of_others(bundle: Path) -> None:
    bench = _bench(bundle, backends=("onnxruntime-cpu", "onnxruntime-cuda"))
    assert REFERENCE not in {one.name for one in bench.marked(Pattern.parse("a"), 1)}


def test_a_sequence_of_calls_takes_turns_round_by_round(clock: MadeClock) -> None:
    heard: list[str] = []
    calls = {"several": [lambda: heard.append("x"), lambda: heard.append("y")]}
    timings = time_together(calls, repeats=3, warm_up=1, settled=True)
    assert "".join(heard) == "xy" + "".join(name * (SETTLING + 1) for name in "xyx")
    assert len(timings["several"]) == 3


def test_lengths_and_batches_are_told(bundle: Path) -> None:
    bench = _bench(bundle, patterns=(Pattern.parse("a"),))
    assert [row.lengths["a"] for row in rows_of(length(bench), OURS)] == [10, 50, 100, 400]
    batches = throughput(bench)
    for name in (OURS, REFERENCE):
        assert [row.batch for row in rows_of(batches, name)] == list(BATCHES)
    assert {row.unit for row in batches} == {"1/s"}


def test_without_throughput_graphs_nothing_is_timed_and_the_cure_is_noted(make_bundle: Any) -> None:
    bench = _bench(make_bundle(("a", "t"), shapes=("latency",)))
    assert throughput(bench) == []
    (reason,) = bench.refused.values()
    assert "no throughput graphs of a, t" in reason
    assert "ifmmin-export CHECKPOINT --shape throughput adds them" in reason


def test_the_monolith_is_asked_for_no_more_of_a_batch_than_tells_its_rate(bundle: Path) -> None:
    bench, heard = _bench(bundle, patterns=(Pattern.parse("a"),)), []

    def answer(features: Any) -> None:
        heard.append(features)
        time.sleep(0.001)

    monolith = Contender("monolith", answer, RunConfig("onnxruntime-cpu", "fp32", 1), peer=True)
    bench.contenders = lambda *_: [monolith]  # type: ignore[method-assign]
    rows = throughput(bench)
    assert len(heard) == sum((2 + 3) * min(batch, 8) for batch in BATCHES)  # warm-up, rounds
    assert [row.batch for row in rows] == list(BATCHES)
    assert all(0 < rate < 1000 for row in rows for rate in row.samples)


def test_what_cannot_run_is_left_out_and_named(bundle: Path) -> None:
    bench = _bench(
        bundle, backends=("onnxruntime-cpu", "tensorrt"), precisions=("fp32", "int8"),
        peers=("monolith",),
    )  # fmt: skip
    rows = latency(bench)
    assert {(row.contender, row.backend, row.precision) for row in rows} == {
        (OURS, "onnxruntime-cpu", "fp32"), (CONTROL, "onnxruntime-cpu", "fp32"),
    }  # fmt: skip
    reasons = {what: reason for (_, what, _), reason in bench.refused.items()}
    assert "no int8 latency graph" in reasons["onnxruntime-cpu int8 a"]
    assert "tensorrt" in " ".join(reasons).lower()
    assert "no checkpoint was given" in reasons["monolith"]


def test_a_checkpoint_of_another_network_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"not this one")
    with pytest.raises(CheckpointError, match="was made from"):
        _bench(bundle, checkpoint=other)


def test_a_wrong_bundle_cannot_pose_as_its_checkpoint(bundle: Path, tmp_path: Path) -> None:
    """Peers are held against the network, and so are we."""
    damaged = copied(bundle, tmp_path)
    nudge(damaged, "a.latency.fp32.onnx", 3.0)
    bench = _bench(damaged, checkpoint=bundle.parent / "model.safetensors", peers=())
    assert {row.pattern for row in latency(bench)} == {"t", "a_t"}
    (reason,) = [why for (_, what, _), why in bench.refused.items() if what.endswith(" a")]
    assert "golden" in reason


def test_a_group_of_calls_stops_in_time() -> None:
    calls = {"a": lambda: None, "b": lambda: None}
    found = time_together(calls, repeats=1000, warm_up=0, seconds=0.0)
    assert list(map(len, found.values())) == [1, 1]
    floor = time_together(calls, repeats=1000, warm_up=0, seconds=0.0, fewest=7)
    assert list(map(len, floor.values())) == [7, 7]
    assert len(time_together(calls, repeats=5, seconds=0.0, fewest=7)["a"]) == 5


def test_a_settled_call_follows_some_of_its_own(clock: MadeClock) -> None:
    ran: list[str] = []
    calls = {name: partial(ran.append, name) for name in "abc"}
    time_together(calls, repeats=50, warm_up=0, settled=True)
    turn = SETTLING + 1
    assert len(ran) == turn * 3 * 50
    assert all(len(set(ran[i : i + turn])) == 1 for i in range(0, len(ran), turn))
    rounds = {"".join(ran[i : i + 3 * turn : turn]) for i in range(0, len(ran), 3 * turn)}
    assert len(rounds) > 3
    ran.clear()
    time_together(calls, repeats=50, warm_up=0)
    assert len(ran) == 3 * 50
    ran.clear()
    time_together({"several": [calls["a"], calls["b"]]}, repeats=3, warm_up=1, settled=True)
    assert "".join(ran) == "ab" + "".join(name * turn for name in "aba")


def test_a_slow_call_settles_for_a_moment_only(clock: MadeClock) -> None:
    ran = {"slow": 0, "slower": 0}

    def take(name: str, share: float) -> None:
        ran[name] += 1
        clock.now += share * SETTLING_SECONDS

    calls = {"slow": partial(take, "slow", 0.6), "slower": partial(take, "slower", 1.1)}
    time_together(calls, repeats=10, warm_up=0, settled=True)
    assert ran == {"slow": 30, "slower": 20}


def test_all_that_take_turns_go_through_their_sessions_in_step(clock: MadeClock) -> None:
    asked: dict[str, list[int]] = {"ours": [], "slow": []}
    calls = {name: [partial(heard.append, n) for n in range(3)] for name, heard in asked.items()}
    time_together(calls, repeats=4, warm_up=0, settled=True)
    assert asked["ours"] == asked["slow"] == [n for n in (0, 1, 2, 0) for _ in range(SETTLING + 1)]


def test_a_slow_call_is_warmed_up_for_a_moment_only(clock: MadeClock) -> None:
    ran = {"slow": 0, "fast": 0}

    def slow() -> None:
        ran["slow"] += 1
        clock.now += 0.6 * WARM_UP_SECONDS

    def fast() -> None:
        ran["fast"] += 1

    time_together({"slow": slow, "fast": fast}, repeats=1, warm_up=20)
    assert ran == {"slow": 3, "fast": 21}
