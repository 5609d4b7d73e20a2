"""The yardstick: the same graph in every version, which tells what a machine did between runs."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from sample_report import sample_report
from sample_rows import Machine

from ifmmin.benchmarks.compare import Comparison, compare
from ifmmin.benchmarks.compare_cli import show
from ifmmin.benchmarks.record import OURS, TWIN, YARDSTICK, Report, Row
from ifmmin.benchmarks.report.measured import measure
from ifmmin.benchmarks.report.scale import percent
from ifmmin.benchmarks.yardstick import open_yardstick, yardstick_bytes
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern

pytest.importorskip("onnx", reason="the yardstick is built with the package onnx")

IEMOCAP = {Modality.A: 130, Modality.V: 342, Modality.T: 1024}
SLOW = ("v", "fp32", "onnxruntime-cpu", 1)


@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_it_runs_on_frames_of_any_length(pattern: Pattern) -> None:
    run, rng = open_yardstick(IEMOCAP, pattern, 1), np.random.default_rng(0)
    answers = []
    for frames in (1, 7, 50):
        features = {
            m: rng.standard_normal((frames, dim)).astype(np.float32)
            for m, dim in IEMOCAP.items()
        }  # fmt: skip
        answers.append(run(features))
    assert all(answer.shape == (1, 4) for answer in answers)
    assert np.isfinite(answers).all()
    assert np.ptp(answers, axis=0).max() > 1e-3


def test_it_is_of_the_size_of_our_graphs() -> None:
    """At IEMOCAP's dimensions a graph of ours has 4.2 MB for voice and 8.7 MB for everything."""
    sizes = [len(yardstick_bytes(IEMOCAP, Pattern.parse(name))) for name in ("a", "a_v_t")]
    assert 3e6 < sizes[0] < 5e6
    assert 7e6 < sizes[1] < 13e6


def test_it_never_changes() -> None:
    """Records of two versions are compared by it: changing it wants another name."""
    content = yardstick_bytes({m: 8 for m in IEMOCAP}, ALL_PATTERNS[-1])
    import onnx

    model = onnx.load_from_string(content)
    told = [(node.op_type, tuple(node.input)) for node in model.graph.node]
    sizes = [(tensor.name, tuple(tensor.dims)) for tensor in model.graph.initializer]
    found = hashlib.sha256(repr((told, sizes)).encode()).hexdigest()
    assert found == "93260d573e2a215d8674445c7fad7d6aa7feb65dc144c9504c9b11a42ff60c91"


def _marked(report: Report) -> Report:
    """With a yardstick in every group of latencies, slowed down as our rows were."""
    rows = list(report.rows)
    machine = Machine(seed=len(report.rows) + int(1e6 * report.rows[0].samples[0]))
    for row in report.rows:
        if row.scenario == "latency" and row.contender == "monolith":
            jitter = np.exp(machine.rng.normal(0, 0.01, len(row.samples)))
            samples = tuple(float(x) for x in np.array(row.samples) * jitter / 2)
            rows.append(msgspec.structs.replace(row, contender=YARDSTICK, samples=samples))
    return msgspec.structs.replace(report, rows=tuple(rows))


def _scaled(report: Report, factors: dict[str, float], slow: float = 1.0) -> Report:
    def scale(row: Row) -> Row:
        by = factors.get(row.contender, 1.0)
        if row.contender in (OURS, TWIN) and _way(row) == SLOW:
            by *= slow
        return msgspec.structs.replace(row, samples=tuple(x * by for x in row.samples))

    return msgspec.structs.replace(report, rows=tuple(map(scale, report.rows)))


def _way(row: Row) -> tuple[Any, ...]:
    return (row.pattern, row.precision, row.backend, row.threads)


def _without_marks(report: Report) -> Report:
    rows = tuple(row for row in report.rows if row.contender != YARDSTICK)
    return msgspec.structs.replace(report, rows=rows)


@pytest.fixture(scope="module", params=range(4))
def runs(request: pytest.FixtureRequest) -> tuple[Report, Report]:
    first, second = (
        _marked(sample_report(Machine(seed=2 * request.param + turn), scenarios=["latency"]))
        for turn in range(2)
    )
    return first, second


SHARED = {OURS: 1.12, TWIN: 1.12, YARDSTICK: 1.12}
"""A machine that slows our kind of graph down and leaves peers alone."""


def test_what_slows_its_kind_down_is_no_slow_code(runs: tuple[Report, Report]) -> None:
    before, after = runs
    found = compare(before, _scaled(after, SHARED))
    assert found.references == "yardsticks"
    assert found.slower == ()
    # The control: peers alone would not have told.
    unmarked = compare(_without_marks(before), _without_marks(_scaled(after, SHARED)))
    assert unmarked.references == "peers"
    assert len(unmarked.slower) > 10


@pytest.mark.parametrize("drift", [1.0, 1.1, 1 / 1.1])
def test_a_slower_graph_is_found_on_a_machine_that_changed(
    runs: tuple[Report, Report], drift: float
) -> None:
    before, after = runs
    everything = dict.fromkeys({row.contender for row in after.rows}, drift)
    found = compare(before, _scaled(after, everything, slow=1.10))
    assert [_way(row.before) for row in found.slower] == [SLOW]
    if drift != 1.0:  # peers are believed less, for they are of another kind
        unmarked = compare(
            _without_marks(before), _without_marks(_scaled(after, everything, slow=1.10))
        )
        assert _width(found) < _width(unmarked)


def _width(found: Comparison) -> float:
    (row,) = [row for row in found.rows if _way(row.before) == SLOW]
    return math.log(row.ratio.high / row.ratio.low)


def test_it_stands_in_no_table(runs: tuple[Report, Report]) -> None:
    items = measure(runs[0], "latency")
    assert {item.row.contender for item in items} >= {OURS, TWIN, "monolith"}
    assert YARDSTICK not in {item.row.contender for item in items}


def test_the_comparison_says_what_told_the_drift(
    runs: tuple[Report, Report], capsys: pytest.CaptureFixture[str]
) -> None:
    show(compare(*runs), *runs)
    assert "the second time by yardsticks, whose code is not ours" in capsys.readouterr().out


def test_the_comparison_says_what_it_could_not_have_seen(
    runs: tuple[Report, Report], capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = runs
    found = compare(before, _scaled(after, {}, slow=1.10))
    show(found, before, after)
    said = capsys.readouterr().out
    worst = max((row for row in found.rows if row.verdict == "same"), key=lambda r: r.ratio.high)
    assert f"Up to {percent(worst.ratio.high - 1.0)} may have been added to " in said
    assert f"{worst.before.subject} unseen" in said
