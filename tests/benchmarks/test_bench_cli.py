"""`ifmmin-bench` and the demo on small corpora: every part is there, and no timing is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from small_bundles import copied, nudge

from ifmmin.benchmarks.cli import main
from ifmmin.benchmarks.demo import main as demo
from ifmmin.benchmarks.demo import measure_latency
from ifmmin.benchmarks.record import CONTROL, OURS, REFERENCE, read_report
from ifmmin.benchmarks.run import SCENARIOS, find_scenario
from ifmmin.benchmarks.scenarios.plan import FEWEST_ROUNDS
from ifmmin.benchmarks.timing import time_together
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import ParityError
from ifmmin.runtime.modality import ALL_PATTERNS

pytestmark = pytest.mark.usefixtures("no_probe")


def test_a_run_writes_a_record_and_two_reports(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench"
    given = ["run", "-b", str(bundle), "--scenario", "latency", "--pattern", "t_a", "--rounds", "6"]
    given += ["--checkpoint", str(bundle.parent / "model.safetensors"), "--out", str(out)]
    assert main(given) == 0
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
    said = capsys.readouterr()
    assert "a_t" in said.out
    assert "monolith" in said.out
    again = tmp_path / "again"
    assert main(["report", str(out / "report.json"), "--out", str(again)]) == 0
    for name in ("report.json", "report.md", "report.html"):
        assert (again / name).read_bytes() == (out / name).read_bytes(), name
    assert main(["compare", str(out / "report.json"), str(again / "report.json")]) == 0


def test_a_record_fits_the_schema_that_the_command_prints(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["run", "-b", str(bundle), "--scenario", "latency", "--pattern", "a", "--rounds", "2"]
    assert main([*given, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["--schema"]) == 0
    validator = jsonschema.Draft202012Validator(json.loads(capsys.readouterr().out))
    content = json.loads((tmp_path / "report.json").read_text())
    validator.validate(content)
    for wrong in (
        {key: value for key, value in content.items() if key != "command"},
        content | {"rows": [content["rows"][0] | {"scenario": "dance"}]},
        content | {"seconds": "long"},
    ):
        assert not validator.is_valid(wrong)


def test_a_budget_leaves_a_floor_of_rounds_and_says_so(bundle: Path, tmp_path: Path) -> None:
    given = [
        "run", "-b", str(bundle), "--scenario", "latency", "--pattern", "a", "--out", str(tmp_path),
    ]  # fmt: skip
    assert main([*given, "--budget", "0.001"]) == 0
    report = read_report(tmp_path / "report.json")
    assert {len(row.samples) for row in report.rows} == {FEWEST_ROUNDS}
    assert report.settings["budget_seconds"] == 0.001
    (phase,) = [phase for phase in report.phases if phase.name == "latency"]
    assert (phase.groups, phase.cut) == (1, 1)
    told = (tmp_path / "report.md").read_text()
    assert "Time was short: 1 of 1 groups of calls ended before all their rounds" in told
    assert main([*given, "--budget", "600", "--rounds", "40"]) == 0
    assert {len(row.samples) for row in read_report(tmp_path / "report.json").rows} == {40}
    assert "Time was short" not in (tmp_path / "report.md").read_text()


def test_what_was_left_out_is_in_the_report(bundle: Path, tmp_path: Path) -> None:
    given = ["run", "-b", str(bundle), "--scenario", "latency", "--pattern", "a", "--rounds", "2"]
    assert main([*given, "--peer", "eager", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "no checkpoint was given" in text


def test_what_cannot_run_is_left_out_of_its_own_scenario(make_bundle: Any, tmp_path: Path) -> None:
    without = make_bundle(("a",), shapes=("latency",))
    given = ["run", "-b", str(without), "--scenario", "stream", "--scenario", "throughput"]
    assert main([*given, "--rounds", "2", "--out", str(tmp_path)]) == 0
    rows = read_report(tmp_path / "report.json").rows
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
def test_a_mistake_is_one_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["run", "-b", str(bundle), "--out", str(tmp_path / "x"), *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert error.startswith("error: ")
    assert "\n" not in error
    assert not (tmp_path / "x").exists() or list((tmp_path / "x").iterdir()) == []


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["run", "-b", str(bundle), "--out", str(tmp_path / "file" / "x")]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["compare", "a", "b"], ["report", "a"], ["--schema"]])
def test_without_the_extra_one_line_has_the_cure(words: list[str]) -> None:
    script = (
        "import sys; sys.modules['psutil'] = None\n"
        "from ifmmin.runtime.cli.commands import bench\n"
        "sys.exit(bench())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: ifmmin-bench needs psutil, not installed here; run pip install 'ifmmin[bench]'\n"
    )


def test_every_scenario_is_there() -> None:
    for home in SCENARIOS.values():
        assert callable(find_scenario(home))


SMALL = (
    "corpus.modalities={a: {dim: 5, frames: [2, 6]}, v: {dim: 6, frames: [2, 6]}, "
    "t: {dim: 7, frames: [3, 9], missing_length: 5}}",
    "corpus.train=64",
    "corpus.test=40",
    "network={embedding: 8, text_channels: 4, blocks: 2, block_sizes: [8, 4]}",
    "stage1.epochs=1",
    "stage2.epochs=1",
)


def test_demo_prints_a_row_per_pattern(tmp_path: Path, capsys: Any) -> None:
    settings = [word for field in SMALL for word in ("--set", field)]
    assert demo(["--out", str(tmp_path / "demo"), "--repeats", "3", *settings]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == [str(p) for p in ALL_PATTERNS]
    assert all(line.count("|") == 11 for line in lines)
    assert Bundle(tmp_path / "demo" / "bundle").patterns == ALL_PATTERNS


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
