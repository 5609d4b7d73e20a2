"""`ifmmin-bench` and `make pipeline` on small corpora: every part is there, no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from run_command import call, mistake, run_python
from small_bundles import copied, nudge
from small_recipe import small_options

from ifmmin.benchmarks.cli import main
from ifmmin.benchmarks.pipeline import main as pipeline
from ifmmin.benchmarks.pipeline import measure_latency
from ifmmin.benchmarks.record import CONTROL, OURS, REFERENCE, Report, read_report
from ifmmin.benchmarks.run import SCENARIOS, find_scenario
from ifmmin.benchmarks.scenarios.plan import FEWEST_ROUNDS, ORDINARY
from ifmmin.benchmarks.timing import time_together
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import ParityError
from ifmmin.runtime.modality import ALL_PATTERNS

pytestmark = pytest.mark.usefixtures("no_probe")


def _measured(bundle: Path, out: Path, *words: object) -> Report:
    ran = call(main, "run", "-b", bundle, "--out", out, *words)
    assert ran.code == 0, ran
    return read_report(out / "report.json")


LATENCY = ("--scenario", "latency", "--pattern", "a")


def test_a_run_writes_a_record_and_two_reports(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench"
    words = ["--scenario", "latency", "--pattern", "t_a", "--rounds", 6, "--out", out]
    checkpoint = bundle.parent / "model.safetensors"
    ran = call(main, "run", "-b", bundle, *words, "--checkpoint", checkpoint)
    assert ran.code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "report.html", "report.json", "report.md",
    ]  # fmt: skip
    report = read_report(out / "report.json")
    assert {row.contender for row in report.rows} == {OURS, CONTROL, REFERENCE, "monolith"}
    assert {row.pattern for row in report.rows} == {"a_t"}
    assert report.settings["rounds"] == 6
    assert report.watched is not None
    phases = {phase.name: phase for phase in report.phases}
    assert (phases["latency"].groups, phases["latency"].rounds) == (1, (6, 6))
    assert phases["latency"].seconds + phases["making ready"].seconds < report.seconds
    assert report.bundle.labels == ("angry", "happy", "neutral", "sad")
    assert report.command.startswith("ifmmin-bench ")
    assert 0 < report.noise["latency"]["a_t"] < 100
    assert "a_t" in ran.out
    assert "monolith" in ran.out
    again = tmp_path / "again"
    assert call(main, "report", out / "report.json", "--out", again).code == 0
    for name in ("report.json", "report.md", "report.html"):
        assert (again / name).read_bytes() == (out / name).read_bytes(), name
    assert call(main, "compare", out / "report.json", again / "report.json").code == 0


def test_a_record_fits_the_schema_that_the_command_prints(bundle: Path, tmp_path: Path) -> None:
    _measured(bundle, tmp_path, *LATENCY, "--rounds", 2)
    validator = jsonschema.Draft202012Validator(json.loads(call(main, "--schema").out))
    content = json.loads((tmp_path / "report.json").read_text())
    validator.validate(content)
    for wrong in (
        {key: value for key, value in content.items() if key != "command"},
        content | {"rows": [content["rows"][0] | {"scenario": "dance"}]},
        content | {"seconds": "long"},
    ):
        assert not validator.is_valid(wrong)


def test_a_budget_leaves_a_floor_of_rounds_and_says_so(bundle: Path, tmp_path: Path) -> None:
    report = _measured(bundle, tmp_path, *LATENCY, "--budget", 0.001)
    assert {len(row.samples) for row in report.rows} == {FEWEST_ROUNDS}
    assert report.settings["budget_seconds"] == 0.001
    (phase,) = [phase for phase in report.phases if phase.name == "latency"]
    assert (phase.groups, phase.cut) == (1, 1)
    told = (tmp_path / "report.md").read_text()
    assert "Time was short: 1 of 1 groups of calls ended before all their rounds" in told
    report = _measured(bundle, tmp_path, *LATENCY, "--budget", 600, "--rounds", 40)
    assert {len(row.samples) for row in report.rows} == {40}
    assert "Time was short" not in (tmp_path / "report.md").read_text()


def test_what_was_left_out_is_in_the_report(bundle: Path, make_bundle: Any, tmp_path: Path) -> None:
    _measured(bundle, tmp_path, *LATENCY, "--rounds", 2, "--peer", "eager")
    assert "no checkpoint was given" in (tmp_path / "report.md").read_text()
    # What cannot run is left out of its own scenario.
    words = ["--scenario", "stream", "--scenario", "throughput", "--rounds", 2]
    rows = _measured(make_bundle(("a",), shapes=("latency",)), tmp_path, *words).rows
    assert {row.scenario for row in rows if row.note.startswith("left out")} == {
        "stream", "throughput",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rounds", "0"], "--rounds: got 0, wanted at least 1"),
        (["--seconds", "0"], "--seconds: got 0.0, wanted more than 0"),
        (["--budget", "0"], "--budget: got 0.0, wanted more than 0 seconds"),
        (["--threads", "0"], "--threads: got 0, wanted at least 1"),
        (["--pattern", "x"], "unknown pattern 'x'"),
        (["--peer", "magic"], "unknown peer 'magic'"),
        (["--scenario", "dance"], "--scenario: got 'dance', wanted one of latency, "),
        (["--backend", "abacus"], "--backend: got 'abacus', wanted one of onnxruntime-cpu, "),
        (["--checkpoint", "nowhere"], "nowhere cannot be read"),
    ],
)
def test_a_mistake_is_one_line(bundle: Path, tmp_path: Path, words: list[str], said: str) -> None:
    assert said in mistake(main, "run", "-b", bundle, "--out", tmp_path / "x", *words)
    assert list(tmp_path.glob("x/*")) == []


def test_unwritable_places_are_told_first(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = mistake(main, "run", "-b", bundle, "--out", tmp_path / "file" / "x")
    assert "cannot write" in said


@pytest.mark.parametrize("words", [[], ["compare", "a", "b"], ["report", "a"], ["--schema"]])
def test_without_the_extra_one_line_has_the_cure(words: list[str]) -> None:
    script = "from ifmmin.runtime.cli.commands import bench; sys.exit(bench())"
    ran = run_python(script, *words, without=["psutil"])
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "error: ifmmin-bench needs psutil, not installed here; run pip install 'ifmmin[bench]'\n"
    )


def test_every_scenario_is_there() -> None:
    for home in SCENARIOS.values():
        assert callable(find_scenario(home))


def test_pipeline_prints_a_row_per_pattern(tmp_path: Path) -> None:
    ran = call(pipeline, "--out", tmp_path / "pipeline", "--repeats", 3, *small_options())
    assert ran.code == 0
    lines = [line for line in ran.out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == [str(p) for p in ALL_PATTERNS]
    assert all(line.count("|") == 11 for line in lines)
    assert f"{' + '.join(map(str, ORDINARY.values()))} frames" in ran.out  # as long as in all else
    assert Bundle(tmp_path / "pipeline" / "bundle").patterns == ALL_PATTERNS


def test_calls_take_turns_in_shuffled_order() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "xyz"}
    timings = time_together(calls, repeats=50)
    rounds = np.reshape(order[-150:], (50, 3))
    assert all(sorted(turn) == ["x", "y", "z"] for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 3
    assert set(map(len, timings.values())) == {50}


def test_a_wrong_answer_is_not_timed(bundle: Path, tmp_path: Path) -> None:
    damaged = copied(bundle, tmp_path)
    nudge(damaged, "a.latency.fp32.onnx", 3.0)
    with pytest.raises(ParityError, match="was not timed"):
        measure_latency(damaged, bundle.parent / "model.safetensors", repeats=1)
