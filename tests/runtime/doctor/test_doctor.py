from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from made_machines import HEALTHY, ORIN, change
from run_command import Ran, run_python
from small_bundles import copied, edit, nudge

from ifmmin.runtime.backends import Backend, LoadedGraph
from ifmmin.runtime.backends.onnxruntime import UNKNOWN, OnnxRuntimeCpu
from ifmmin.runtime.bundle import Bundle, GraphEntry
from ifmmin.runtime.doctor import answer, cli
from ifmmin.runtime.doctor.facts import BackendState, Clock, Facts, Folder, Temperature
from ifmmin.runtime.doctor.report import Report, SelfTest, make_report, run_selftests, show, to_json
from ifmmin.runtime.errors import BackendUnavailable, BundleError


@pytest.fixture
def bundle(make_bundle: Any, tmp_path: Path) -> Path:
    """A copy of a sound bundle of a, t and a_t in float32."""
    return copied(make_bundle(), tmp_path)


def _run(*words: object) -> Ran:
    script = "from ifmmin.runtime.doctor.cli import main; sys.exit(main(sys.argv[1:]))"
    return run_python(script, *words, without=("torch", "onnx", "h5py", "yaml"))


def test_the_command_here() -> None:
    started = time.perf_counter()
    done = _run()
    seconds = time.perf_counter() - started
    assert done.code == 0, done.err
    assert set(done.err.splitlines()) >= {"self-test by onnxruntime-cpu..."}
    assert "onnxruntime-cpu: pass, 6 graphs compared" in done.out, "of the bundle that ships"
    assert "for non-commercial use (CC BY-NC-SA 4.0)" in done.out
    if not Path("/proc/driver/nvidia").exists():
        assert "no NVIDIA GPU here" in done.out
    assert seconds < 30  # 1.5 s where nothing else runs


def test_the_report_fits_the_schema_that_the_command_prints() -> None:
    done, schema = _run("--json"), _run("--schema")
    assert (done.code, schema.code) == (0, 0), done.err + schema.err
    report = json.loads(done.out)
    validator = jsonschema.Draft202012Validator(json.loads(schema.out))
    validator.validate(report)
    assert msgspec.convert(report, Report).schema == 1
    for wrong in (
        {key: value for key, value in report.items() if key != "facts"},
        report | {"broken": "no"},
        report | {"facts": report["facts"] | {"cpu": {"cores": "many"}}},
    ):
        assert not validator.is_valid(wrong)


def test_a_sound_bundle_passes_and_a_damaged_one_is_broken(bundle: Path) -> None:
    done = _run("-b", bundle, "--json")
    assert done.code == 0, done.out
    (cpu,) = [t for t in json.loads(done.out)["selftests"] if t["backend"] == "onnxruntime-cpu"]
    assert cpu["passed"]
    assert cpu["graphs"] > 3
    assert 0 < cpu["difference"] < cpu["allowed"]
    nudge(bundle, "a.latency.fp32.onnx", factor=1.5)
    done = _run("-b", bundle)
    assert done.code == 1
    assert "FAIL" in done.out
    assert "a.latency.fp32.onnx" in done.out
    assert "Traceback" not in done.out + done.err


def test_no_bundle_and_no_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = _run("-b", tmp_path / "nothing")
    assert done.code == 2
    assert done.err.count("\n") == 1
    facts = Facts(backends=(BackendState(name="tensorrt", usable=False, reason="absent"),))
    monkeypatch.setattr(cli, "collect", lambda host: facts)
    assert cli.main([]) == 1


class _Other(Backend):
    """An engine that has its graphs run by the CPU."""

    name = "tensorrt"

    def __init__(self, refuse: Exception | None = None) -> None:
        self._refuse = refuse

    def open(self, bundle: Bundle, entry: GraphEntry) -> LoadedGraph:
        if self._refuse is not None and entry.subject == "a":
            raise self._refuse
        return OnnxRuntimeCpu().open(bundle, entry)


def _other(monkeypatch: pytest.MonkeyPatch, refuse: Exception | None = None) -> None:
    make: Callable[[str], Backend] = lambda name: _Other(refuse)  # noqa: E731
    monkeypatch.setattr(answer, "make_backend", make)


def test_other_backends_run_latency_graphs(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    _other(monkeypatch)
    found = answer.test_bundle("tensorrt", str(bundle))
    assert (found["passed"], found["graphs"]) == (True, 3)
    # What versions say that record nothing.
    assert [note for note in found["notes"] if UNKNOWN not in note] == []


def test_a_graph_that_an_engine_refuses(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    _other(monkeypatch, BackendUnavailable("no kernel for it"))
    found = answer.test_bundle("tensorrt", str(bundle))
    assert (found["passed"], found["graphs"]) == (True, 2)
    assert "no kernel for it" in found["notes"][0]
    _other(monkeypatch, RuntimeError("it fell over"))
    found = answer.test_bundle("tensorrt", str(bundle))
    assert not found["passed"]
    assert "it fell over" in found["failures"][0]


def test_a_bundle_without_graphs_of_it(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["backends"]["tensorrt"].update(precisions=["fp16"]))
    _other(monkeypatch)
    found = answer.test_bundle("tensorrt", str(bundle))
    assert (found["passed"], found["graphs"]) == (True, 0)
    assert "export one in fp16" in found["notes"][0]
    tests = (SelfTest(backend="tensorrt", passed=True),)
    assert "tensorrt: not run" in _shown(make_report(HEALTHY["orin"], tests))


def test_selftests_are_of_usable_backends(bundle: Path) -> None:
    asked: list[str] = []

    def ask(questions: list[str], patience: float | None) -> dict[str, dict[str, Any]]:
        asked.extend(questions)
        if "tensorrt" in questions[0]:
            return {questions[0]: {"error": "its process was ended by SIGSEGV"}}
        return {questions[0]: {"passed": True, "graphs": 3}}

    states = [("onnxruntime-cpu", True), ("tensorrt", True), ("openvino", False)]
    facts = Facts(backends=tuple(BackendState(name=n, usable=u) for n, u in states))
    cpu, engine = run_selftests(facts, bundle, ask)
    assert len(asked) == 2
    assert (cpu.passed, engine.passed) == (True, False)
    assert make_report(facts, (cpu, engine)).broken
    with pytest.raises(BundleError):
        run_selftests(facts, bundle / "nothing", ask)


def _shown(report: Report) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        show(report)
    return output.getvalue()


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_machines_are_shown(name: str) -> None:
    shown = _shown(make_report(HEALTHY[name]))
    assert shown.rstrip().endswith("none")
    assert HEALTHY[name].python.version in shown


def test_everything_is_shown() -> None:
    facts = change(
        ORIN,
        temperatures=(Temperature(zone="tj-thermal", celsius=51.0),),
        library_path=(Folder(path="/opt/gone", exists=False),),
        jetson__clocks=(Clock(name="EMC", minimum=1, maximum=2, current=1, pinned=False),),
    )
    failed = SelfTest(
        backend="tensorrt", passed=False, difference=1.0, unit="logit", allowed=1e-4,
        failures=("x",),
    )  # fmt: skip
    shown = _shown(make_report(facts, (failed,)))
    machine = ("NVIDIA Jetson Orin NX", "36.4.3", "MAXN_SUPER", "0 of 1 clocks", "51 degrees")
    trouble = ("/opt/gone", "[jetson-clocks]", "FAIL", "allowed 1.0e-04", "[library-path]")
    for text in (*machine, *trouble):
        assert text in shown


def test_names_with_brackets_are_no_markup() -> None:
    facts = change(ORIN, jetson__model="[bold]Board[/nonsense]")
    assert "[bold]Board[/nonsense]" in _shown(make_report(facts))
    assert json.loads(to_json(make_report(Facts())))["broken"]
