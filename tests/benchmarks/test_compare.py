"""A slower graph is found, and a run that only was unlucky is not: on noise as machines make it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sample_report import sample_device, sample_report
from sample_rows import Machine

from ifmmin.benchmarks import judge
from ifmmin.benchmarks.cli import main
from ifmmin.benchmarks.compare import Comparison, compare
from ifmmin.benchmarks.compare_cli import compare_reports
from ifmmin.benchmarks.differences import differences
from ifmmin.benchmarks.drift import (
    ASSUMED_NOISE,
    Change,
    Noise,
    between_sessions,
    changed_contenders,
    estimate_drift,
)
from ifmmin.benchmarks.record import OURS, TWIN, Report, Row
from ifmmin.benchmarks.record_file import write_report
from ifmmin.runtime.errors import InputError

TIMED = ("latency", "length", "throughput", "stream")
SEEDS = range(10)
Choose = Callable[[Row], bool]


def _run(seed: int, **more: Any) -> Report:
    """A run of 66 rows of ours; odd seeds on a machine a few per cent slower or faster."""
    drift = float(np.random.default_rng(seed).normal(0, 0.03))
    settings: dict[str, Any] = {"drift": drift} | more
    machine = Machine(seed=seed, **settings)
    return sample_report(machine, scenarios=TIMED)


def _scaled(report: Report, chosen: Choose, factor: float) -> Report:
    """The report with rows that cost `factor` times as much."""

    def scale(row: Row) -> Row:
        by = 1 / factor if row.unit == "1/s" else factor
        samples = tuple(sample * by for sample in row.samples)
        return msgspec.structs.replace(row, samples=samples)

    rows = tuple(scale(row) if chosen(row) else row for row in report.rows)
    return msgspec.structs.replace(report, rows=rows)


def _without(report: Report, chosen: Choose) -> Report:
    rows = tuple(row for row in report.rows if not chosen(row))
    return msgspec.structs.replace(report, rows=rows)


def _is_ours(row: Row) -> bool:
    return row.contender in (OURS, TWIN)


def _graph(row: Row) -> bool:
    """One graph on one thread, in its own session and the twin's."""
    what = (row.scenario, row.pattern, row.precision, row.backend, row.threads)
    return _is_ours(row) and what == ("latency", "a_t", "int8", "onnxruntime-cpu", 1)


def _keys(found: Comparison) -> list[tuple[Any, ...]]:
    return [row.before.key for row in found.slower]


@pytest.mark.parametrize("seed", SEEDS)
def test_one_slower_graph_is_found_and_a_rerun_raises_no_alarm(seed: int) -> None:
    before, again = _run(2 * seed), _run(2 * seed + 1)
    found = compare(before, again)
    assert len(found.rows) >= 60
    assert _keys(found) == []
    slower = compare(before, _scaled(again, _graph, 1.10))
    assert [key for key in _keys(slower) if key[1] == "a_t"] == [
        row.key for row in before.rows if _graph(row) and row.contender == OURS
    ]
    assert len(slower.slower) == 1
    assert slower.slower[0].ratio.low > 1.0


def test_a_row_that_suffers_more_from_a_slow_machine_is_no_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, after = _run(6, drift=0.0), _run(7, drift=0.3)
    suffering = _scaled(after, _graph, 1.3**0.4)
    assert compare(before, suffering).slower == ()
    # The control: believed to follow its peers exactly, it is one.
    monkeypatch.setattr(judge, "RESPONSE", 0.0)
    assert len(compare(before, suffering).slower) == 1


def test_a_faster_graph_is_told_and_is_no_alarm() -> None:
    found = compare(_run(2), _scaled(_run(3), _graph, 1 / 1.15))
    assert [row.before.pattern for row in found.faster] == ["a_t"]
    assert found.slower == ()
    assert found.faster[0].twin == pytest.approx(1 / 1.15, rel=0.05)


def test_a_slow_machine_is_no_slow_code() -> None:
    before, after = _run(4, drift=0.0), _run(5, drift=0.25)
    found = compare(before, after)
    assert found.references == "peers"
    assert found.drift.value == pytest.approx(math.log(1.25), abs=0.02)
    assert found.slower == ()
    # The control: without drift taken out, nearly every row would be an alarm.
    naive = [
        np.median(second.samples) / np.median(first.samples)
        for first, second in zip(before.rows, after.rows, strict=True)
        if first.samples and first.unit == "s"
    ]
    assert np.mean(np.asarray(naive) > 1.05) > 0.95


def test_a_neighbour_that_came_for_a_minute_is_no_slow_code() -> None:
    def hit(row: Row) -> bool:
        return row.scenario == "latency" and row.pattern == "v" and row.threads == 2

    found = compare(_run(6), _scaled(_run(7), hit, 1.3))
    assert found.slower == ()


def test_all_of_our_code_may_be_slower_where_peers_are_not() -> None:
    found = compare(_run(8), _scaled(_run(9), _is_ours, 1.12))
    assert len(found.slower) > 0.9 * len(found.rows)


def test_a_peer_that_changed_itself_is_no_reference() -> None:
    found = compare(_run(10), _scaled(_run(11), lambda row: row.contender == "eager", 0.5))
    assert found.slower == ()
    assert found.changed_peers == ("eager",)
    # The control: as a reference it would have pulled the drift of its groups along.
    assert abs(found.drift.value) < 0.15


def test_ways_of_ours_are_no_peers() -> None:
    def again(row: Row) -> bool:
        return row.contender == "whole again"

    before, after = _run(12), _run(13)
    assert compare(before, _scaled(after, again, 2.0)) == compare(before, after)


def test_without_peers_our_rows_tell_the_drift() -> None:
    def peer(row: Row) -> bool:
        return not _is_ours(row)

    before, after = _without(_run(14), peer), _without(_run(15, drift=0.06), peer)
    found = compare(before, after)
    assert found.references == "own rows"
    assert (found.slower, found.all_slower) == ((), False)
    assert len(compare(before, _scaled(after, _graph, 1.15)).slower) == 1
    assert compare(before, _scaled(after, _is_ours, 1.2)).all_slower


def test_little_is_believed_without_controls() -> None:
    def other(row: Row) -> bool:
        return row.contender != OURS

    before, after = _without(_run(16), other), _without(_run(17), other)
    found = compare(before, after)
    assert math.isinf(found.noise.degrees)
    assert found.noise.variance == pytest.approx(ASSUMED_NOISE**2)
    assert found.slower == ()
    assert len(compare(before, _scaled(after, _graph, 1.4)).slower) == 1


def test_the_threshold_is_the_least_that_counts() -> None:
    before, after = _run(18), _scaled(_run(19), _graph, 1.12)
    assert len(compare(before, after, threshold=0.05).slower) == 1
    assert compare(before, after, threshold=0.2).slower == ()


def test_rates_memory_and_energy_are_worse_in_their_own_direction() -> None:
    before = sample_report(Machine(seed=0), scenarios=("memory", "throughput"))
    after = sample_report(Machine(seed=1, drift=0.2), scenarios=("memory", "throughput"))
    assert compare(before, after).slower == ()
    found = compare(before, _scaled(after, _is_ours, 1.4))
    assert {row.before.unit for row in found.slower} == {"1/s", "bytes"}
    for row in found.slower:
        rises = np.median(row.after.samples) > np.median(row.before.samples)
        assert rises == (row.before.unit == "bytes")


def test_rows_of_one_report_alone_and_of_few_samples_are_told_of() -> None:
    before = sample_report(Machine(seed=0, rounds=30))
    after = _without(sample_report(Machine(seed=1, rounds=30)), lambda row: row.scenario == "idle")
    found = compare(before, after)
    assert [row.scenario for row in found.only_before] == ["idle"] * 3
    assert found.only_after == ()
    assert {row.scenario for row in found.few} == {"offline", "server", "latency", "memory"}


def test_reports_that_cannot_be_compared_are_refused() -> None:
    report = sample_report(Machine(rounds=8), scenarios=("length",))
    other = sample_report(Machine(rounds=8), scenarios=("stream",))
    with pytest.raises(InputError, match="no row of ifmmin in common"):
        compare(report, other)
    twice = msgspec.structs.replace(report, rows=report.rows + report.rows[:1])
    with pytest.raises(InputError, match="second report has two rows for length ifmmin a"):
        compare(report, twice)


def test_sessions_and_drift_are_estimated_as_they_were_drawn() -> None:
    rng = np.random.default_rng(0)
    own, session, wander, run = 0.01, 0.02, 0.03, 0.05
    groups = [(index,) for index in range(200)]
    locals_ = {group: run + rng.normal(0, wander) for group in groups}
    peers = [
        Change(group, locals_[group] + rng.normal(0, math.hypot(own, session)), own**2)
        for group in groups
        for _ in range(3)
    ]
    noise = between_sessions([], peers)
    assert math.sqrt(noise.variance) == pytest.approx(session, rel=0.1)
    drift = estimate_drift(peers, noise, local=True)
    assert drift.value == pytest.approx(run, abs=0.01)
    assert math.sqrt(drift.between) == pytest.approx(wander, rel=0.15)
    errors = {group: drift.of(group)[0] - truth for group, truth in locals_.items()}
    spread = np.sqrt(np.mean(np.square(list(errors.values()))))
    promised = np.sqrt(np.mean([drift.of(group)[1] for group in groups]))
    assert spread == pytest.approx(promised, rel=0.15)
    assert spread < 0.6 * wander  # what a drift of the run alone would leave
    elsewhere = drift.variance + drift.between + drift.doubt
    assert drift.of(("elsewhere",)) == (drift.value, elsewhere)
    assert 0.05 < drift.doubt / drift.between < 0.25  # 200 groups


def test_two_peers_cannot_judge_each_other() -> None:
    two = [("x", Change((0,), 0.0, 1e-6)), ("y", Change((0,), 0.5, 1e-6))]
    assert changed_contenders(two) == []
    assert changed_contenders([*two, ("z", Change((0,), 0.01, 1e-6))]) == ["y"]
    moved = [(name, Change((0,), 0.5, 1e-6)) for name in "xyz"]
    assert changed_contenders(moved) == []
    assert estimate_drift([], Noise(0.0, 1), local=True).of((0,)) == (0.0, 0.0)


def test_what_else_changed_is_told_but_not_what_always_changes() -> None:
    before = sample_report(Machine(rounds=4), scenarios=("idle",))
    device = sample_device(75.0)
    processor = msgspec.structs.replace(device.processor, model="Cortex-A78AE", load=3.0)
    packages = device.software.packages | {"onnxruntime": "1.33.0"}
    software = msgspec.structs.replace(device.software, packages=packages)
    after = msgspec.structs.replace(
        before,
        device_before=msgspec.structs.replace(device, processor=processor, software=software),
        settings=before.settings | {"rounds": 9},
        bundle=msgspec.structs.replace(before.bundle, checkpoint_sha256="b" * 64),
    )
    assert differences(before, before) == []
    found = {name: (was, now) for name, was, now in differences(before, after)}
    assert found.keys() == {"processor", "software", "checkpoint", "rounds"}
    assert found["software"] == ("onnxruntime 1.32.0", "onnxruntime 1.33.0")
    assert found["processor"] == ("AMD EPYC", "Cortex-A78AE")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """Before, again, and slower."""
    folder = tmp_path_factory.mktemp("records")
    before, again = _run(0), _run(1)
    reports = {"before": before, "again": again, "slower": _scaled(again, _graph, 1.15)}
    for name, report in reports.items():
        write_report(report, folder / f"{name}.json")
    before_path, again_path, slower_path = (str(folder / f"{name}.json") for name in reports)
    return before_path, again_path, slower_path


def test_the_command_fails_on_slower_rows_where_asked(
    records: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before, again, slower = records
    assert main(["compare", before, again, "--fail-on-slower"]) == 0
    assert "66 rows compared: 0 slower, 0 faster." in capsys.readouterr().out
    assert compare_reports([before, slower]) == 0
    assert compare_reports([before, slower, "--fail-on-slower"]) == 1
    out = capsys.readouterr().out
    (line,) = {line for line in out.splitlines() if line.startswith("| latency")}
    assert "a_t" in line
    assert "slower" in line
    assert "by peers" in out
    assert "Not the same in both runs" not in out
    assert compare_reports([before, slower, "--fail-on-slower", "--threshold", "0.3"]) == 0
    capsys.readouterr()
    assert compare_reports([before, again, "--all"]) == 0
    assert capsys.readouterr().out.count(" same |") == 66


def test_the_command_tells_mistakes_in_one_line(
    records: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"schema": 1}))
    for arguments in (
        [records[0], str(tmp_path / "none.json")],
        [str(tmp_path / "x.json"), records[0]],
        [records[0], records[1], "--threshold", "-1"],
        [records[0], records[1], "--threshold", "nan"],
    ):
        assert main(["compare", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
