"""What a system does wrong ends a run soon, with one error, and leaves nothing behind."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_system import BRIEF, COUNT, TRUTH, FakeSystem, generator_called, plan
from run_command import run_python

from ifmmin.benchmarks.scenarios.loadgen.base import SCENARIOS, Scenario, Settings
from ifmmin.benchmarks.scenarios.loadgen.measure import Generator, check_answers, measure_scenario
from ifmmin.benchmarks.scenarios.loadgen.mlperf import Answering, read_run
from ifmmin.benchmarks.scenarios.loadgen.own import CHUNK, Worker
from ifmmin.runtime.errors import EngineError, InputError, ParityError

LONG: dict[str, Any] = {"seconds": 100.0, "queries": 100, "rate": 300.0}


@pytest.fixture
def loadgen() -> Generator:
    return generator_called("loadgen")


def works(generator: Generator, scenario: Scenario) -> bool:
    """Whether a sound system is measured."""
    run = generator.perform(FakeSystem(), plan(scenario, seconds=0.05, queries=20))
    return bool(run.queries >= 20)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("issue", [1, 7])
def test_an_error_ends_a_long_run(generator: Generator, scenario: Scenario, issue: int) -> None:
    system = FakeSystem(0.001, fails_at=issue)
    started = time.perf_counter()
    with pytest.raises(RuntimeError, match="out of order"):
        generator.perform(system, plan(scenario, **LONG))
    assert time.perf_counter() - started < 50, "of 100 s that were asked for"
    assert len(system.issues) == issue, "nothing is asked after a failure"
    assert works(generator, scenario)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_error_in_the_accuracy_run(generator: Generator, scenario: Scenario) -> None:
    with pytest.raises(RuntimeError, match="out of order"):
        generator.answers(FakeSystem(fails_at=1), plan(scenario))
    assert sorted(generator.answers(FakeSystem(), plan(scenario))) == list(range(COUNT))
    # One of the user is one line.
    system = FakeSystem(fails_at=1, failure=InputError("modality a: got words, wanted numbers"))
    with pytest.raises(InputError) as caught:
        generator.perform(system, plan(scenario))
    assert str(caught.value) == f"scenario {scenario}: modality a: got words, wanted numbers"


@pytest.mark.parametrize("scenario", ["single-stream", "server"])
def test_an_answer_of_another_shape(generator: Generator, scenario: Scenario) -> None:
    class Flat(FakeSystem):
        def issue(self, indices: Any) -> Any:
            return super().issue(indices)[0]

    with pytest.raises(ValueError, match="one row of logits a sample was wanted"):
        generator.perform(Flat(), plan(scenario))


_INTERRUPTED = """
import os, signal
from fake_system import FakeSystem, generator_called, plan

class Interrupted(FakeSystem):
    def issue(self, indices):
        if len(self.issues) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return super().issue(indices)

generator = generator_called(sys.argv[1])
try:
    generator.perform(Interrupted(0.001), plan(sys.argv[2], seconds=100.0, queries=100, rate=300.0))
except KeyboardInterrupt:
    run = generator.perform(FakeSystem(), plan(sys.argv[2], seconds=0.05, queries=20))
    print("interrupted", run.queries >= 20)
"""


@pytest.mark.parametrize("scenario", ["single-stream", "server"])
@pytest.mark.parametrize("name", ["own", "loadgen"])
def test_an_interrupt_ends_a_long_run_soon(name: str, scenario: Scenario) -> None:
    """In a process of its own, whose main thread asks."""
    generator_called(name)  # or the test is skipped
    folders = os.pathsep.join(path for path in sys.path if path)
    ran = run_python(_INTERRUPTED, name, scenario, env={**os.environ, "PYTHONPATH": folders})
    assert ran.out.splitlines()[-1:] == ["interrupted True"], ran.err


def test_from_another_thread(generator: Generator) -> None:
    """One that ends, as LoadGen's own may not."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(works(generator, "server")))
    thread.start()
    thread.join()
    assert found == [True]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", ["own", "loadgen"])
def test_a_wrong_answer_is_not_timed(name: str, scenario: Scenario) -> None:
    generator_called(name)
    system = FakeSystem(0.0001)
    truth = TRUTH.copy()
    truth[13, 1] += 0.01
    with pytest.raises(ParityError) as caught:
        measure_scenario(system, scenario, Settings(length=BRIEF, generator=name), truth=truth)
    message = str(caught.value)
    assert "fake answers sample 13 with logits that differ from the truth by 1.0e-02" in message
    assert "allowed 1e-03; 100% of 20 answers agree; nothing was timed" in message
    truth[13, 1] -= 0.0095
    settings = Settings(length=BRIEF, generator=name)
    result = measure_scenario(FakeSystem(0.0001), scenario, settings, truth=truth)
    assert result.accuracy.max_difference == pytest.approx(5e-4, rel=1e-3)


def test_answers_that_lack_or_contradict() -> None:
    system = FakeSystem()
    answers = {index: [row.astype(np.float32)] for index, row in enumerate(TRUTH)}
    assert check_answers(system, "server", answers, None, 1e-3).max_difference is None
    whole = answers | {4: [answers[4][0], answers[4][0] + np.float32(1e-4)]}
    assert check_answers(system, "server", whole, TRUTH, 1e-3).agreement == 1
    twice = answers | {4: [answers[4][0], answers[4][0] + np.float32(0.1)]}
    with pytest.raises(ParityError, match=r"answered sample 4 in two ways that differ by 1.0e-01"):
        check_answers(system, "multi-stream", twice, None, 1e-3)
    lacking = {k: v for k, v in answers.items() if k not in (3, 9)}
    with pytest.raises(ParityError, match="left 2 of 20 samples without an answer, sample 3 first"):
        check_answers(system, "offline", lacking, TRUTH, 1e-3)
    with pytest.raises(ParityError, match="differ from the truth by inf"):
        check_answers(system, "offline", answers | {2: [answers[2][0] * np.nan]}, TRUTH, 1e-3)
    with pytest.raises(InputError, match=r"the truth has shape \(20, 2\), the answers \(20, 3\)"):
        check_answers(system, "offline", answers, TRUTH[:, :2], 1e-3)


def test_nothing_stays(loadgen: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert works(loadgen, "single-stream")
    with pytest.raises(RuntimeError, match="out of order"):
        loadgen.perform(FakeSystem(fails_at=2), plan("single-stream", seconds=1.0))
    assert list(tmp_path.iterdir()) == []


def test_a_stray_audit_config_is_not_obeyed(
    loadgen: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoadGen would read it in the working directory and override what it was told."""
    (tmp_path / "audit.config").write_text("*.*.max_query_count = 3\n")
    monkeypatch.chdir(tmp_path)
    run = loadgen.perform(FakeSystem(), plan("single-stream", seconds=0.05, queries=50))
    assert run.queries >= 50


def test_logs_without_a_result(tmp_path: Path) -> None:
    log = tmp_path / "mlperf_log_detail.txt"
    log.write_text("")
    with pytest.raises(EngineError, match="LoadGen wrote no log"):
        read_run(tmp_path, plan("single-stream"))
    log.write_text(
        ':::MLLOG {"key": "error_runtime", "value": "no\\nspace", "metadata": {"is_error": true}}\n'
    )
    with pytest.raises(EngineError, match="without a result and said: no space"):
        read_run(tmp_path, plan("single-stream"))


@pytest.mark.parametrize("served", [False, True])
def test_every_sample_is_completed_once(served: bool) -> None:
    """Answered or given up; LoadGen hangs without, and is in disorder after a second time."""
    completed: list[tuple[int, int]] = []
    lg = SimpleNamespace(
        QuerySampleResponse=lambda id_, data, size: (id_, size),
        QuerySamplesComplete=completed.extend,
    )
    with ThreadPoolExecutor(1) as threads:
        answering = Answering(lg, FakeSystem(fails_at=3), threads)
        with answering.served() if served else nullcontext():
            for first in range(0, 12_000, 3000):
                answering.issue(range(first, first + 3000), [5] * 3000)
            answering.flush()
    assert str(answering.failure) == "out of order"
    assert sorted(id_ for id_, _ in completed) == list(range(12_000))
    sizes = [size for _, size in sorted(completed)]
    right = 2 * 3000 if served else 2 * CHUNK
    assert set(sizes[:right]) == {3 * 4}, "float32 of three classes"
    assert set(sizes[right:]) == {0}


def test_hurried_runs_end_in_order(loadgen: Generator, capfd: pytest.CaptureFixture[str]) -> None:
    """LoadGen reads logs of ended threads in the next run, or after they are gone."""
    for _ in range(10):
        hurried = plan("server", seconds=0.05, rate=50_000.0)
        run = loadgen.perform(FakeSystem(), hurried)
        assert run.queries == len(run.latencies) > 100
    assert capfd.readouterr() == ("", "")


def test_a_worker_keeps_what_it_did_not_answer() -> None:
    seen: list[int] = []

    def answer(query: int) -> None:
        if query == 3:
            raise ValueError("three")
        seen.append(query)

    with Worker(answer) as worker:
        for query in range(6):
            worker.put(query)
    assert seen == [0, 1, 2]
    assert worker.left == [3, 4, 5]
    assert str(worker.failure) == "three"
