"""Load: what is measured, by whom, and the peak rate that holds."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_system import BRIEF, COUNT, DELAY, TRUTH, FakeSystem, generator_called, plan
from run_command import noise, run_python

from ifmmin.benchmarks.scenarios.loadgen import mlperf as mlperf_module
from ifmmin.benchmarks.scenarios.loadgen.base import (
    FULL,
    SCENARIOS,
    CallSystem,
    PredictorSystem,
    Run,
    Scenario,
    Settings,
    latency_metrics,
)
from ifmmin.benchmarks.scenarios.loadgen.measure import (
    Generator,
    Peak,
    broken_rules,
    find_peak,
    make_generator,
    measure_scenario,
)
from ifmmin.benchmarks.scenarios.loadgen.own import PythonGenerator, draw_arrivals
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.predictor import Predictor


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "server"])
def test_latencies_hold_the_delay(generator: Generator, scenario: Scenario) -> None:
    """No less than the delay; how much more is the machine's affair."""
    run = generator.perform(FakeSystem(DELAY), plan(scenario))
    least = DELAY * plan(scenario).samples_per_query
    assert least <= run.metrics["min"]
    ordered = [run.metrics[n] for n in ("min", "p50", "p90", "p95", "p97", "p99", "p99.9")]
    assert ordered == sorted(ordered)
    assert run.metrics["p99.9"] <= run.metrics["max"]
    assert run.queries == len(run.latencies) >= 64
    # Both have the percentiles of the same definition; LoadGen's came through its own log.
    again = latency_metrics(np.array(run.latencies))
    assert {k: run.metrics[k] for k in again} == pytest.approx(again, rel=1e-6)


def test_the_two_agree() -> None:
    """By the fastest query, which a busy machine disturbs least."""
    ours, theirs = generator_called("own"), generator_called("loadgen")
    for scenario in SCENARIOS:
        name = "rate" if scenario == "offline" else "min"
        first, second = (
            made.perform(FakeSystem(DELAY), plan(scenario)).metrics[name] for made in (ours, theirs)
        )
        assert 0.2 < first / second < 5, scenario


def test_offline_is_a_rate(generator: Generator) -> None:
    run = generator.perform(FakeSystem(DELAY), plan("offline"))
    assert 0.1 / DELAY < run.metrics["rate"] <= 1 / DELAY
    assert run.queries >= 64
    assert run.latencies == pytest.approx((run.queries / run.metrics["rate"],), rel=1e-3)
    assert run.complaints == ()
    # One that was too fast says so.
    run = generator.perform(FakeSystem(DELAY), plan("offline", expected_seconds=0.1, queries=1))
    assert re.match(r"it (lasted|did not last)", run.complaints[0])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_samples_of_a_query(generator: Generator, scenario: Scenario) -> None:
    system = FakeSystem()
    generator.perform(system, plan(scenario, seconds=0.05, queries=200, rate=2000))
    sizes = {len(issue) for issue in system.issues}
    assert set(system.asked) == set(range(COUNT)), "every sample takes part"
    if scenario == "offline":
        assert sum(len(issue) for issue in system.issues) >= 200
    else:
        assert sizes == {8 if scenario == "multi-stream" else 1}
        assert len(system.issues) >= 200


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_accuracy_run_answers_every_sample(generator: Generator, scenario: Scenario) -> None:
    system = FakeSystem()
    answers = generator.answers(system, plan(scenario))
    assert sorted(answers) == list(range(COUNT))
    for index, several in answers.items():
        for logits in several:
            assert np.array_equal(logits, TRUTH[index].astype(np.float32))
    counts = Counter(system.asked)
    assert {index: len(several) for index, several in answers.items()} == counts
    if scenario == "multi-stream" and generator.name != "own":
        assert sum(counts.values()) == 24, "LoadGen fills the last query"
    else:
        assert set(counts.values()) == {1}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", ["own", "loadgen"])
def test_a_measured_scenario(name: str, scenario: Scenario) -> None:
    made = generator_called(name)
    settings = Settings(length=BRIEF, generator=name, latency_limit=1.0)
    result = measure_scenario(FakeSystem(0.0003), scenario, settings, truth=TRUTH)
    assert (result.scenario, result.generator) == (scenario, made.name)
    assert any("a run of 0.2 s; MLPerf's rules want 600 s" in reason for reason in result.why_not)
    assert any("our own generator" in reason for reason in result.why_not) == (name == "own")
    assert result.accuracy.samples == COUNT
    assert result.accuracy.max_difference == 0
    assert result.accuracy.agreement == 1
    assert msgspec.json.decode(msgspec.json.encode(result))["metrics"] == result.metrics
    if scenario in ("single-stream", "multi-stream"):
        assert result.figure == result.metrics["p90" if scenario == "single-stream" else "p99"]
    else:
        assert 0 < result.figure < 1.1 / 0.0003
    if scenario == "server":
        assert result.metrics["p99"] <= 1.0
        assert result.metrics["rate"] < result.metrics["failed rate"]
        assert (result.figure, True) in result.tried


def test_a_limit_that_one_answer_breaks() -> None:
    settings = Settings(length=BRIEF, generator="own", latency_limit=0.001)
    result = measure_scenario(FakeSystem(0.002), "server", settings)
    assert result.figure == 0
    assert len(result.tried) == 1
    assert "the latency limit of 0.001 s did not hold" in result.why_not


def test_a_server_that_cannot_follow_is_given_up(generator: Generator) -> None:
    """Long before the minute that was asked for."""
    overload = plan("server", seconds=60.0, rate=5000.0, latency_limit=0.01)
    run = generator.perform(FakeSystem(0.002), overload)
    assert not run.in_time
    assert run.queries < 5000, "of 300,000"
    assert any("wait" in reason or "outstanding" in reason for reason in run.complaints)


def test_arrivals_and_percentiles() -> None:
    arrivals, indices = draw_arrivals(COUNT, plan("server", rate=200.0, seconds=50.0))
    gaps = np.diff(arrivals)
    assert len(arrivals) == len(indices)
    assert arrivals[-2] < 50.0 <= arrivals[-1]
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)
    again = draw_arrivals(COUNT, plan("server", rate=200.0, seconds=50.0))
    assert np.array_equal(arrivals, again[0])
    assert np.array_equal(indices, again[1])
    other = draw_arrivals(COUNT, plan("server", rate=200.0, seconds=50.0, seed=4))
    assert not np.array_equal(gaps[:9], np.diff(other[0])[:9])
    assert len(draw_arrivals(COUNT, plan("server", rate=1.0, seconds=1.0, queries=90))[0]) == 90
    # By LoadGen's rule: of n sorted latencies the one at position n p, counted from 0.
    metrics = latency_metrics(np.arange(10, 0, -1) / 10)
    assert (metrics["p50"], metrics["p90"], metrics["p99.9"]) == (0.6, 1.0, 1.0)
    assert (metrics["min"], metrics["max"]) == (0.1, 1.0)
    assert metrics["mean"] == pytest.approx(0.55)


def test_too_many_latencies_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made = generator_called("loadgen")
    monkeypatch.setattr(mlperf_module, "MOST_TRACED", 10)
    run = made.perform(FakeSystem(), plan("single-stream"))
    assert run.latencies == ()
    assert run.metrics["p90"] > 0


def test_only_a_full_run_of_loadgen_is_valid() -> None:
    class Theirs(PythonGenerator):
        name = "loadgen 6.0"

    for scenario in SCENARIOS:
        assert broken_rules(Theirs(), scenario, Settings(length=FULL)) == ()
        assert len(broken_rules(Theirs(), scenario, Settings())) > 0
        assert len(broken_rules(PythonGenerator(), scenario, Settings(length=FULL))) == 1


def test_a_predictor(bundle: Path) -> None:
    predictor = Predictor(bundle, backend="onnxruntime-cpu")
    utterances = [
        {"a": noise("a", 4 + index, index), "t": noise("t", 6, index)} for index in range(5)
    ]
    truth = np.stack([predictor.predict(u).logits for u in utterances])
    settings = Settings(length=BRIEF)
    system = PredictorSystem("ours", predictor, utterances)
    for scenario in SCENARIOS[:3]:
        result = measure_scenario(system, scenario, settings, truth=truth)
        assert result.accuracy.agreement == 1
    with pytest.raises(InputError, match="no utterances were given"):
        PredictorSystem("ours", predictor, [])


def test_a_row_without_a_stride(generator: Generator) -> None:
    """Numpy gives an axis of one row, made by [None], a stride of zero."""

    class Rows(FakeSystem):
        def issue(self, indices: Any) -> Any:
            return super().issue(indices)[0][None]

    answers = generator.answers(Rows(), plan("single-stream"))
    assert np.array_equal(np.stack([answers[i][0] for i in range(COUNT)]), TRUTH)


def test_a_call() -> None:
    system = CallSystem("double", lambda x: np.array([x, 2 * x], np.float32), [1, 2, 3])
    assert system.count == 3
    assert system.issue([2, 0]).tolist() == [[3, 6], [1, 2]]
    with pytest.raises(InputError, match="no inputs were given"):
        CallSystem("empty", print, [])


def test_loadgen_needs_no_torch() -> None:
    script = (
        "from ifmmin.benchmarks.scenarios.loadgen.measure import make_generator\n"
        "import ifmmin.benchmarks.scenarios.loadgen\n"
        "assert make_generator().name == 'own'\n"
        "try: make_generator('loadgen')\n"
        "except Exception as error: assert 'ifmmin[loadgen]' in str(error), error\n"
        "else: raise SystemExit('no error')\n"
    )
    assert run_python(script, without=("torch", "onnx", "mlperf_loadgen")).code == 0


def test_what_cannot_be_meant() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"latency_limit": 0.0}, "latency limit: got 0.0 s"), ({"seed": -1}, "seed: got -1"),
        ({"length": msgspec.structs.replace(BRIEF, seconds=0.0)}, "seconds of a run: got 0.0"),
    ]  # fmt: skip
    for settings, message in wrong:
        with pytest.raises(InputError, match=message):
            Settings(**settings)
    with pytest.raises(InputError, match="generator: got 'best', wanted one of auto, loadgen, own"):
        make_generator("best")
    with pytest.raises(InputError, match="scenario: got 'burst', wanted one of single-stream"):
        measure_scenario(FakeSystem(), "burst", Settings())  # type: ignore[arg-type]


def holds_below(limit: float, *, certain: bool = True) -> tuple[list[float], Any]:
    asked: list[float] = []

    def run(rate: float) -> Run:
        asked.append(rate)
        return Run(metrics={"p99": rate}, queries=1, in_time=rate <= limit, certain=certain)

    return asked, run


def search(
    probe_limit: float, confirm_limit: float, steps: int = 6, *, certain: bool = True
) -> tuple[Peak, int, int]:
    probes, probe = holds_below(probe_limit)
    confirms, confirm = holds_below(confirm_limit, certain=certain)
    return find_peak(probe, confirm, 0.001, steps), len(probes), len(confirms)


@pytest.mark.parametrize("limit", [20.0, 312.0, 700.0, 1090.0])
def test_the_rate_is_found(limit: float) -> None:
    """To a 64th of 1100 a second, which a system of 1 ms cannot follow."""
    peak, probes, confirms = search(limit, limit)
    assert limit - 1100 / 64 <= peak.rate <= limit < peak.failed_rate
    assert (probes, confirms) == (6, 1)
    assert peak.run.metrics["p99"] == peak.rate
    assert peak.tried[-1] == (peak.rate, True)


def test_a_whole_run_that_fails_steps_back() -> None:
    peak, _, confirms = search(700.0, 600.0)
    assert confirms == 3
    assert 0.7 * 700 < peak.rate < 600 < peak.failed_rate < 700
    assert peak.run.in_time


def test_the_time_is_bounded() -> None:
    peak, probes, confirms = search(700.0, 0.0)
    assert (probes, confirms) == (6, 4)
    assert (peak.rate, peak.run.in_time) == (0, False)
    assert peak.failed_rate == peak.tried[-1][0]
    # Nothing holds.
    peak, probes, confirms = search(0.0, 0.0, steps=3)
    assert (probes, confirms, peak.rate) == (3, 0, 0)
    assert peak.run.metrics["p99"] == peak.failed_rate == pytest.approx(1100 / 8)
    # A whole run must be certain.
    peak, _, confirms = search(700.0, 700.0, steps=4, certain=False)
    assert (peak.rate, confirms) == (0, 4)
