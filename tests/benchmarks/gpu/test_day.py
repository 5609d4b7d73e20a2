"""A GPU day: rehearsed whole on a made-up GPU, and without one; interrupted, crashed, too old."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_gpu import gpu_environment
from fake_tensorrt import Machine, machine
from run_command import run_python
from small_bundles import TRAINING, nudge
from small_networks import small_network

from ifmmin.benchmarks.gpu.day import Day, Part, require_recent, run_day, to_markdown
from ifmmin.benchmarks.gpu.steps import (
    GPU_BACKENDS,
    STEPS,
    Place,
    Row,
    explain_choice,
    prove_engines,
)
from ifmmin.benchmarks.peers.base import PEERS
from ifmmin.runtime.doctor.facts import Facts, Nvidia
from ifmmin.runtime.errors import BackendUnavailable
from ifmmin.train.checkpoint import save_checkpoint

gpu = pytest.fixture(machine)
NAMES = [step.name for step in STEPS]
FAKED = ("tensorrt", "tensorrt-rtx")
RUN = "import sys; from ifmmin.benchmarks.gpu.day import main; sys.exit(main(sys.argv[1:]))"


def _stand_in(folder: Path, body: str) -> Sequence[str]:
    """What is run in place of every step: `name`, `rows` for a list, and its own body."""
    path = folder / "step.py"
    path.write_text(
        "import json, os, signal, sys, time\n"
        "name = next(word for word in sys.argv[1:] if word != '--quick')\n"
        "with open(sys.argv[0] + '.log', 'a') as log: print(name, file=log)\n"
        "def tell(what, outcome='passed'):\n"
        "    print(json.dumps({'what': what, 'outcome': outcome}), flush=True)\n"
        f"{body}\n"
    )
    return (sys.executable, str(path))


def _ran(command: Sequence[str]) -> list[str]:
    """Steps whose process was started, in order, since the last question."""
    log = Path(f"{command[1]}.log")
    found = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def _rows(day: Day, step: str) -> dict[str, Row]:
    return {row.what: row for part in day.steps if part.name == step for row in part.rows}


@pytest.fixture
def place(make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("IFMMIN_CACHE", str(tmp_path / "cache"))
    made = make_bundle(("a", "t"), ("fp32", "fp16"))
    shutil.copytree(made, tmp_path / "day" / "bundle")
    return Place(tmp_path / "day", quick=True)


@pytest.mark.parametrize("backend", FAKED)
def test_engines_of_every_graph(gpu: Machine, place: Place, backend: str) -> None:
    rows = {row.what: row for row in prove_engines(place, [backend])}
    assert {row.outcome for row in rows.values()} == {"passed"}
    shapes = Counter(name.split(".")[1] for name in rows)
    assert shapes == {"latency": 4, "throughput": 4, "step": 4, "summary": 4, "head": 4}
    found = rows["t.throughput.fp32.onnx"]
    assert 0 <= found.figures["difference"] < found.figures["allowed"]
    assert "built here" in found.detail
    nudge(place.bundle, "t.step.fp32.onnx", 3.0)
    wrong = {row.what for row in prove_engines(place, [backend]) if row.outcome == "failed"}
    assert wrong == {"t.step.fp32.onnx", "t.summary.fp32.onnx", "t.head.fp32.onnx"}


def test_a_choice_is_explained(gpu: Machine, place: Place) -> None:
    rows = {row.what: row for row in explain_choice(place, [])}
    assert sum(row.detail == "taken" for row in rows.values()) == 2
    for backend in FAKED:
        assert rows[f"a by {backend} fp16"].figures["p50 us"] > 0
    refused = rows["t by onnxruntime-cuda fp32"]
    assert refused.outcome == "not run"
    assert "pip install" in refused.detail


@pytest.mark.skipif("IFMMIN_REHEARSE" not in os.environ, reason="minutes; make gpu-rehearsal")
def test_all_steps_run_on_a_made_up_gpu(tmp_path: Path) -> None:
    checkpoint = tmp_path / "two.safetensors"
    save_checkpoint(checkpoint, small_network("two"), TRAINING)
    environment = {
        **gpu_environment(tmp_path / "fakes"), "IFMMIN_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    out = tmp_path / "day"
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "ifmmin.benchmarks.gpu.day",
        "run",
        "--quick",
        "--out",
        out,
    ]
    subprocess.run([*command, "--checkpoint", checkpoint], env=environment, check=True, timeout=900)
    day = msgspec.json.decode((out / "record.json").read_bytes(), type=Day)
    assert [part.name for part in day.steps] == NAMES
    assert all(part.whole for part in day.steps)
    assert not day.failed
    for step in ("engines tensorrt", "engines tensorrt-rtx"):
        rows = _rows(day, step)
        shapes = Counter(name.split(".")[1] for name in rows)
        assert shapes == {"latency": 9, "throughput": 9, "step": 4, "summary": 4, "head": 6}
        fp32 = [row for name, row in rows.items() if "latency.fp32" in name]
        assert all(0 <= row.figures["difference"] < row.figures["allowed"] for row in fp32)
    chosen = {what.partition(" by ")[2] for what in _rows(day, "auto")}
    assert {"tensorrt fp16", "tensorrt-rtx int8-qdq", "onnxruntime-cuda fp32"} <= chosen
    assert sum(row.detail == "taken" for row in _rows(day, "auto").values()) == 3
    assert set(day.benchmarks) == {"latency", "batches", "streams"}
    for backend in FAKED:
        assert _rows(day, "latency")[f"latency ifmmin a {backend} fp16 50 a"].figures["p50 us"] > 0
        assert _rows(day, "batches")[f"throughput ifmmin a {backend} fp32 50 a batch 4096"].figures
        assert _rows(day, "streams")[f"streams ifmmin a {backend} fp32 64 streams"].figures
        energy = _rows(day, "energy")[f"{backend}, batch 512"].figures
        assert energy["J of the GPU"] * energy["1/s"] == pytest.approx(25, rel=0.2)
    tests = _rows(day, "tests")
    assert tests["test_cuda::test_a_real_gpu"].outcome == "passed"
    assert (out / "report.md").read_text() == to_markdown(day)


def test_without_a_gpu_every_row_says_why(tmp_path: Path) -> None:
    command = _stand_in(tmp_path, "tell('something')")
    day = run_day(Place(tmp_path / "day"), run=command)
    asked = [step.name for step in STEPS if not step.backends]
    assert asked == ["bundle", "tests", "engines built ahead", "auto"]
    assert _ran(command) == asked
    assert not day.failed
    for step in STEPS:
        rows = _rows(day, step.name)
        assert set(step.backends) <= rows.keys()
        for name in step.backends:
            assert rows[name].outcome == "not run"
            assert "driver" in rows[name].detail or "pip install" in rows[name].detail
    peers = {f"peer {peer.name}" for peer in PEERS if peer.backend in GPU_BACKENDS}
    assert peers <= _rows(day, "latency").keys()
    assert "no GPU: 4 passed, 0 failed" in (tmp_path / "day" / "report.md").read_text()


def test_a_day_goes_on_where_it_was(tmp_path: Path) -> None:
    place, flag = Place(tmp_path / "day"), tmp_path / "well"
    command = _stand_in(tmp_path, f"tell('one', 'passed' if os.path.exists({str(flag)!r}) or "
                        "name != 'auto' else 'failed')")  # fmt: skip
    assert run_day(place, run=command).failed
    assert "auto" in _ran(command)
    flag.touch()
    assert not run_day(place, run=command).failed
    assert _ran(command) == ["auto"], "what failed is tried again, and nothing else"
    run_day(Place(tmp_path / "day", quick=True), run=command)
    assert "bundle" in _ran(command), "a look is no measurement"
    checkpoint = tmp_path / "other.safetensors"
    checkpoint.write_bytes(b"another")
    run_day(place, checkpoint, run=command)
    assert "bundle" in _ran(command)


def test_steps_that_crash_hang_or_outlast_the_day(tmp_path: Path) -> None:
    body = (
        "tell('before')\n"
        "if name == 'bundle': os.kill(os.getpid(), signal.SIGSEGV)\n"
        "if name == 'tests': time.sleep(600)\n"
    )
    day = run_day(Place(tmp_path / "day"), run=_stand_in(tmp_path, body), seconds=8)
    assert day.failed
    bundle, tests, auto = (_rows(day, name) for name in ("bundle", "tests", "auto"))
    assert bundle["before"].outcome == "passed"
    assert "signal 11" in bundle["bundle"].detail
    assert tests["before"].outcome == "passed"
    assert "run make gpu again" in tests["rest of tests"].detail
    assert "was over; run make gpu again" in auto["auto"].detail
    assert [part.name for part in day.steps if part.whole] == [
        step.name for step in STEPS if step.backends
    ]


def test_a_driver_that_is_too_old(tmp_path: Path) -> None:
    environment = gpu_environment(tmp_path / "fakes", driver=11040)
    ran = run_python(RUN, "run", "--out", tmp_path / "day", env=environment)
    assert ran.code == 2
    last = ran.err.splitlines()[-1]
    assert last.startswith("error: the NVIDIA driver")
    assert "CUDA 11.4, at least 12.0 was wanted; update it" in last
    assert not (tmp_path / "day").exists()
    require_recent(Nvidia(driver="525.60", cuda="12.0"))
    with pytest.raises(BackendUnavailable, match=r"470\.82"):
        require_recent(Nvidia(driver="470.82", cuda="11.8"))


def test_a_step_that_is_none(tmp_path: Path) -> None:
    ran = run_python(RUN, "step", "lunch", tmp_path, env=dict(os.environ))
    assert (ran.code, ran.out) == (2, "")
    assert "lunch" in ran.err
    assert ran.err.count("\n") == 1


def test_a_report_shows_no_control_characters() -> None:
    row = Row(what="one\x1b[31m", outcome="failed", detail="a | b")
    part = Part(name="tests", key="", seconds=1, whole=True, rows=(row,))
    day = Day(ifmmin="0", revision=None, machine=Facts(), findings=(), steps=(part,), benchmarks={})
    assert "\x1b" not in to_markdown(day)
