"""Two reports are compared row by row, beside a workload that is no part of the project."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from run_command import call, mistake
from sample_rows import Machine, a_row, sample_device, sample_report

from ifmmin.benchmarks import compare as module
from ifmmin.benchmarks.cli import main
from ifmmin.benchmarks.compare import Comparison, compare
from ifmmin.benchmarks.record import (
    CONTROL,
    OURS,
    REFERENCE,
    Report,
    Row,
    controls,
    measured_noise,
    spread,
    write_report,
)
from ifmmin.benchmarks.report.summary import measure, percent
from ifmmin.benchmarks.scenarios.contenders import open_reference, reference_bytes
from ifmmin.benchmarks.timing import (
    FEWEST,
    Interval,
    Ratio,
    no_difference,
    quantile_interval,
    ratio_of_medians,
    summarise,
)
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern

PATTERNS = tuple(str(pattern) for pattern in ALL_PATTERNS)


def _report(
    seed: int, slow: Mapping[str, float] = {}, *, machine: float = 1.0, rounds: int = 40,
    jitter: float = 0.06, reference: bool = True, **more: Any,
) -> Report:  # fmt: skip
    """Our rows, a pattern each, beside the reference of the same rounds, which wander together.

    slow: factors by pattern. machine: of all times. more: fields of every row of ours.
    """
    rng, rows = np.random.default_rng(seed), []
    for number, pattern in enumerate(PATTERNS):
        shared = machine * np.exp(np.cumsum(rng.normal(0, 0.02, rounds)))
        for name, seconds in ((OURS, 4e-4 * (1 + number)), (REFERENCE, 5e-4))[: 1 + reference]:
            middle = seconds * (slow.get(pattern, 1.0) if name == OURS else 1.0)
            drawn = middle * shared * np.exp(rng.normal(0, jitter, rounds))
            drawn[rng.random(rounds) < 0.02] *= 3.0
            samples = tuple(1.0 / drawn if more.get("unit") == "1/s" else drawn)
            fields = {"scenario": "latency", "backend": "onnxruntime-cpu", **more}
            fields |= {} if name == OURS else {"precision": "fp32"}
            rows.append(Row(contender=name, pattern=pattern, samples=samples, **fields))
    return sample_report(rows=tuple(rows), scenarios=())


def _with(report: Report, *rows: Row) -> Report:
    return msgspec.structs.replace(report, rows=report.rows + rows)


def _size(samples: tuple[float, ...], unit: Any = "bytes") -> Row:
    return Row(scenario="memory", contender=OURS, part="peak", unit=unit, samples=samples)


def _changed(found: Comparison) -> dict[str, str]:
    """Verdicts by pattern."""
    rows = found.of("slower") + found.of("faster")
    return {row.before.pattern: row.verdict for row in rows}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("machine", [1.0, 1.4, 1 / 1.4])
def test_a_slower_row_is_found_on_a_machine_of_any_speed(seed: int, machine: float) -> None:
    before = _report(seed, rounds=100)
    again = compare(before, _report(seed + 100, rounds=100, machine=machine))
    assert _changed(again) == {}
    assert again.machine == pytest.approx(machine, rel=0.2)
    slow = {"v": 1.2, "a_t": 1 / 1.3}
    found = compare(before, _report(seed + 100, slow, rounds=100, machine=machine))
    assert _changed(found) == {"v": "slower", "a_t": "faster"}
    assert found.of("slower")[0].ratio.value == pytest.approx(1.2, rel=0.06)
    assert found == compare(before, _report(seed + 100, slow, rounds=100, machine=machine))


def test_the_reference_of_the_same_rounds_tells_code_from_machine() -> None:
    """The control: where it did not slow down too, the code did."""
    before, after = _report(0), _report(1, machine=1.4)
    marks = [row for row in before.rows if row.contender == REFERENCE]
    ours = [row for row in after.rows if row.contender == OURS]
    found = compare(before, msgspec.structs.replace(after, rows=tuple(marks + ours)))
    assert len(found.of("slower")) == len(PATTERNS)


def _noisy(seed: int, added: float = 1.0) -> Comparison:
    """Of rows that differ by 10 % from run to run by chance, all of them slowed down by `added`."""
    noise: dict[str, Any] = {"rounds": 25, "jitter": 0.3}
    slow = dict.fromkeys(PATTERNS, added)
    return compare(_report(2 * seed, **noise), _report(2 * seed + 1, slow, **noise))


def test_noise_alone_raises_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    def alarms() -> float:
        rows = [row for seed in range(40) for row in _noisy(seed).rows]
        assert np.mean([not 1 / 1.1 < row.ratio.value < 1.1 for row in rows]) > 0.3
        return float(np.mean([row.verdict in ("slower", "faster") for row in rows]))

    assert alarms() < 0.035  # LEVEL leaves 0.01, and 25 rounds are few for a bootstrap
    monkeypatch.setattr(module, "LEVEL", 0.8)  # the control: intervals that are too narrow
    assert alarms() > 0.06


@pytest.mark.parametrize("seed", range(10, 14))
def test_a_bit_more_than_may_hide_is_found(seed: int) -> None:
    before = _report(seed)
    found = compare(before, _report(seed + 50))
    worst = max(found.rows, key=lambda row: row.unseen)
    said = f"Up to {percent(worst.unseen)} may have been added to {worst.before.subject} unseen"
    assert any(line.startswith(said) for line in found.lines())
    assert not found.of("slower")
    for share in (1.01, 0.99):
        slow = {row.before.pattern: share * (1.0 + row.unseen) for row in found.rows}
        again = compare(before, _report(seed + 50, slow))
        # What chance slowed down already hides more: all of its interval.
        tight = {row.before.key for row in found.rows if row.unseen > row.ratio.high - 1.0}
        seen = {row.before.key for row in again.of("slower")}
        assert len(tight) > 1
        assert len(seen) == len(PATTERNS) if share > 1.0 else not seen & tight


def test_what_was_added_and_not_found_is_no_more_than_may_hide() -> None:
    hidden = []
    for seed in range(25):
        added = float(np.random.default_rng(seed).uniform(1.0, 1.5))
        rows = [row for row in _noisy(seed, added).rows if row.verdict != "slower"]
        hidden += [added <= 1.0 + row.unseen for row in rows]
    assert len(hidden) > 50
    assert np.mean(hidden) > 0.97


def test_the_threshold_is_the_least_that_counts() -> None:
    before, after = _report(0, jitter=0.01), _report(1, {"v": 1.15}, jitter=0.01)
    assert _changed(compare(before, after)) == {"v": "slower"}
    assert _changed(compare(before, after, threshold=0.2)) == {}
    noisy = compare(_report(0, jitter=0.5), _report(1, jitter=0.5))
    assert len(noisy.of("unclear")) == len(PATTERNS)


def test_rates_are_turned_round_and_follow_the_machine() -> None:
    before = _report(0, unit="1/s", jitter=0.02)
    after = _report(1, {"v": 1.3}, machine=1.4, unit="1/s", jitter=0.02)
    found = compare(before, after)
    assert _changed(found) == {"v": "slower"}
    assert found.of("slower")[0].ratio.value == pytest.approx(1.3, rel=0.03)
    assert found.machine == pytest.approx(1.4, rel=0.15)


@pytest.mark.parametrize("unit", ["bytes", "J"])
def test_what_is_no_time_is_compared_as_it_is(unit: str) -> None:
    before = _with(_report(0), _size((100.0, 102.0), unit))
    for factor, verdict in ((1.2, "slower"), (1.05, "same"), (0.8, "faster"), (1.0, "same")):
        after = _with(_report(1, machine=1.4), _size((101.0 * factor,), unit))
        (row,) = [one for one in compare(before, after).rows if one.before.unit == unit]
        assert row.verdict == verdict
        assert row.ratio.value == pytest.approx(factor)


def test_what_is_not_compared_is_told_in_a_line() -> None:
    before = _with(_report(0), _size((1.0,)), _size((1.0,), "J"))
    rare = [msgspec.structs.replace(row, samples=row.samples[:5]) for row in before.rows[:2]]
    start = msgspec.structs.replace(before.rows[2], scenario="idle")
    after = msgspec.structs.replace(before, rows=(*rare, *before.rows[2:-1], start))
    notes = compare(_with(before, start), after).notes
    assert notes == (
        "Only in the first report: memory ifmmin peak.",
        "Not compared, for no reference workload took turns with it: idle ifmmin v "
        "onnxruntime-cpu.",
        f"Not compared, for it has fewer than {FEWEST} rounds: latency ifmmin a onnxruntime-cpu.",
    )
    old = _with(_report(0, reference=False), _size((1.0,)))
    found = compare(old, _with(_report(1), _size((1.0,))))
    assert found.machine is None
    assert found.notes[0].startswith("The first report has no reference workload, as of older")
    assert found.notes[1].endswith("latency ifmmin a onnxruntime-cpu and 6 more.")


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (_report(1, precision="int8"), "precisions and threads. Only in the first report: latency"),
        (_report(1, threads=2), "Only in the first report: latency ifmmin a onnxruntime-cpu and 6"),
        (_report(1, reference=False), "The second report has no reference workload"),
        (_with(_report(1), _report(1).rows[0]), "second report has two rows for latency ifmmin a"),
    ],
)
def test_reports_that_cannot_be_compared_are_refused(after: Report, said: str) -> None:
    with pytest.raises(InputError, match=said):
        compare(_report(0), after)


def test_what_else_changed_is_told_but_not_what_always_changes() -> None:
    before, device = _report(0), sample_device(75.0)
    processor = msgspec.structs.replace(device.processor, model="Cortex-A78AE", load=3.0)
    packages = device.software.packages | {"onnxruntime": "1.33.0"}
    software = msgspec.structs.replace(device.software, packages=packages)
    after = msgspec.structs.replace(
        before,
        device_before=msgspec.structs.replace(device, processor=processor, software=software),
        settings=before.settings | {"threads": [1, 2]},
        bundle=msgspec.structs.replace(before.bundle, checkpoint_sha256="b" * 64),
    )
    assert compare(before, before).notes == ()
    start = "Not the same in both runs: "
    assert compare(before, after).notes == (
        f"{start}processor: AMD EPYC before, Cortex-A78AE after.",
        f"{start}software: onnxruntime 1.32.0 before, onnxruntime 1.33.0 after.",
        f"{start}checkpoint: {'a9' * 6} before, {'b' * 12} after.",
        f"{start}threads: none before, 1, 2 after.",
    )


def test_the_command(tmp_path: Path) -> None:
    before, again, slower, newer, other = (tmp_path / f"{n}.json" for n in range(5))
    reports = (_report(0), _report(1), _report(1, {"v": 1.4}))
    for path, report in zip((before, again, slower), reports, strict=True):
        write_report(report, path)
    same = call(main, "compare", before, again, "--fail-on-slower")
    assert (same.code, "7 rows compared: 0 slower, 0 faster" in same.out) == (0, True)
    assert call(main, "compare", before, slower, "--fail-on-slower", "--threshold", 0.6).code == 0
    assert call(main, "compare", before, slower).code == 0
    failed = call(main, "compare", before, slower, "--fail-on-slower")
    assert failed.code == 1
    (line,) = [line for line in failed.out.splitlines() if line.startswith("| lat")]
    assert line.startswith("| latency ifmmin v onnxruntime-cpu")
    assert line.endswith("slower |")
    whole = call(main, "compare", before, again, "--all")
    assert (whole.code, whole.out.count("| latency ifmmin")) == (0, len(PATTERNS))
    newer.write_text(json.dumps(json.loads(again.read_text()) | {"schema": 99}))
    other.write_text('{"schema": 1}')
    for words, said in (
        ([before, tmp_path / "none.json"], "cannot read"),
        ([other, before], "is no report of ifmmin-bench"),
        ([before, newer], "is a report of schema 99"),
        ([before, again, "--threshold", "-1"], "--threshold: got -1.0, wanted 0 or more"),
        ([before, again, "--threshold", "nan"], "--threshold: got nan, wanted 0 or more"),
    ):
        assert said in mistake(main, "compare", *words)


pytest.importorskip("onnx", reason="the reference workload is built with the package onnx")

IEMOCAP = {Modality.A: 130, Modality.V: 342, Modality.T: 1024}


@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_it_runs_on_frames_of_any_length(pattern: Pattern) -> None:
    run, rng = open_reference(IEMOCAP, pattern, 1), np.random.default_rng(0)
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


def test_it_is_of_the_size_of_our_graphs_and_never_changes() -> None:
    """At IEMOCAP's dimensions a graph of ours has 4.2 MB for voice and 8.7 MB for everything."""
    sizes = [len(reference_bytes(IEMOCAP, Pattern.parse(name))) for name in ("a", "a_v_t")]
    assert 3e6 < sizes[0] < 5e6
    assert 7e6 < sizes[1] < 13e6
    # Records of two versions are compared by it: changing it wants another name.
    content = reference_bytes({m: 8 for m in IEMOCAP}, ALL_PATTERNS[-1])
    import onnx

    model = onnx.load_from_string(content)
    told = [(node.op_type, tuple(node.input)) for node in model.graph.node]
    shapes = [(tensor.name, tuple(tensor.dims)) for tensor in model.graph.initializer]
    found = hashlib.sha256(repr((told, shapes)).encode()).hexdigest()
    assert found == "93260d573e2a215d8674445c7fad7d6aa7feb65dc144c9504c9b11a42ff60c91"


def test_it_stands_in_no_table() -> None:
    report = sample_report(Machine(rounds=8), scenarios=["latency"])
    peers = [row for row in report.rows if row.contender == "monolith"]
    marks = [msgspec.structs.replace(row, contender=REFERENCE) for row in peers]
    report = msgspec.structs.replace(report, rows=(*report.rows, *marks))
    found = {item.row.contender for item in measure(report, "latency")}
    assert found >= {OURS, CONTROL, "monolith"}
    assert REFERENCE not in found


Rng = np.random.Generator


def _times(rng: Rng, count: int, middle: float = 1.0, jitter: float = 0.08) -> np.ndarray:
    """Log-normal, one in a hundred several times as long."""
    times = middle * rng.lognormal(0.0, jitter, count)
    times[rng.random(count) < 0.01] *= 4.0
    return times


def test_a_summary_has_the_figures_of_its_samples() -> None:
    figures = summarise([float(value) for value in range(1, 102)])
    assert figures.count == 101
    assert [figures.percentile(p) for p in (50, 90, 99)] == [51.0, 91.0, 100.0]
    assert figures.interval == Interval(41.0, 61.0)
    assert summarise([3.0]).interval is None


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("count", [6, 7, 20, 101, 1000, 20000])
def test_order_statistics_are_those_of_the_binomial(count: int, share: float) -> None:
    binom = pytest.importorskip("scipy.stats").binom
    found = quantile_interval(np.arange(1.0, count + 1), share)
    low, high = int(binom.ppf(0.025, count, share)), int(binom.ppf(0.975, count, share)) + 1
    if low < 1 or high > count:
        assert found is None
        return
    assert found == Interval(low, high)
    covered = binom.cdf(high - 1, count, share) - binom.cdf(low - 1, count, share)
    inner = binom.cdf(high - 2, count, share) - binom.cdf(low, count, share)
    assert covered >= 0.95 > inner


def test_the_interval_of_a_median_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    drawn = [quantile_interval(_times(rng, 60, jitter=0.5)) for _ in range(600)]
    truth = float(np.median(_times(rng, 1_000_001, jitter=0.5)))
    hits = [i is not None and i.low <= truth <= i.high for i in drawn]
    assert 0.93 <= np.mean(hits) <= 0.99
    wrong = [i is not None and i.low <= 1.5 * truth <= i.high for i in drawn]
    assert np.mean(wrong) < 0.1


def test_the_interval_of_a_ratio_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    drawn = [
        ratio_of_medians(_times(rng, 80, 1.3), _times(rng, 80), paired=False) for _ in range(300)
    ]
    hits = [ratio is not None and ratio.low <= 1.3 <= ratio.high for ratio in drawn]
    assert 0.92 <= np.mean(hits) <= 0.99
    assert not any(ratio is None or ratio.low <= 1.0 for ratio in drawn)


def _width(above: np.ndarray, below: np.ndarray, *, paired: bool = False) -> float:
    ratio = ratio_of_medians(above, below, paired=paired)
    assert ratio is not None
    return math.log(ratio.high / ratio.low)


def test_what_slowed_both_rows_of_a_round_cancels() -> None:
    rng = np.random.default_rng(2)
    shared = np.exp(0.3 * np.sin(np.linspace(0, 20, 200)))
    ours, theirs = _times(rng, 200, 1.1) * shared, _times(rng, 200) * shared
    assert _width(ours, theirs, paired=True) < 0.7 * _width(ours, theirs)
    together = ratio_of_medians(ours, theirs, paired=True)
    assert together is not None
    assert together.certain


def test_slow_rounds_that_follow_each_other_make_an_interval_wider() -> None:
    rng = np.random.default_rng(3)
    steps = np.repeat(rng.normal(0, 0.2, 40), 5)
    wandering, steady = np.exp(steps), np.exp(rng.permutation(steps))
    other = _times(rng, 200)
    assert _width(wandering, other) > 1.2 * _width(steady, other)


def test_a_ratio_is_the_same_every_time_and_needs_something_to_divide_by() -> None:
    rng = np.random.default_rng(4)
    ours, theirs = _times(rng, 30), _times(rng, 40)
    found = [ratio_of_medians(ours, theirs, paired=True) for _ in range(2)]
    assert found[0] == found[1]
    assert ratio_of_medians(ours, np.zeros(9), paired=False) is None
    assert ratio_of_medians([0.0, 0.0, 1.0], theirs, paired=False) is None


@pytest.mark.parametrize(
    ("ratio", "noise", "same"),
    [
        (Ratio(1.2, 0.99, 1.4), 0.0, True), (Ratio(1.2, 1.1, 1.3), 0.04, False),
        (Ratio(1.03, 1.02, 1.04), 0.04, True), (Ratio(1 / 1.03, 0.96, 0.98), 0.04, True),
        (Ratio(1 / 1.05, 0.94, 0.96), 0.04, False), (Ratio(1.03, 1.02, 1.04), None, False),
        (None, 0.0, True),
    ],
)  # fmt: skip
def test_what_is_no_difference(ratio: Ratio | None, noise: float | None, same: bool) -> None:
    assert no_difference(ratio, noise) is same


def test_the_control_is_another_session_of_the_same_graph() -> None:
    rows = [
        a_row(OURS, 1.0), a_row(CONTROL, 1.02), a_row(OURS, 2.0, precision="int8"),
        a_row(CONTROL, 1.6, precision="int8"), a_row(OURS, 1.0, pattern="v"),
        a_row(CONTROL, 9.0, pattern="t"), a_row("monolith", 5.0),
    ]  # fmt: skip
    assert controls(rows) == [(rows[0], rows[1]), (rows[2], rows[3])]
    noise = measured_noise(rows)
    assert noise == {"latency": {"a": 0.8}}
    assert spread(noise, "latency") == pytest.approx(0.25)
    assert spread(noise, "stream") is None
    assert math.isclose(spread({"latency": {"a": 1.0}}, "latency") or 0.0, 0.0)
