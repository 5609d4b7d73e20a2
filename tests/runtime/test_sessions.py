"""`auto`: what answers wrongly is refused, the fastest by measurement is taken and remembered."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundles import with_backends

from ifmmin.runtime import BackendUnavailable, InputError, Pattern, Predictor
from ifmmin.runtime.backends import Backend, BackendOptions, LoadedGraph
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.bundle import Bundle, GraphEntry
from ifmmin.runtime.process import cpu_quota, usable_cores

STREAMING = pytest.mark.parametrize("bundle", ["streams"], indirect=True)
PATTERN = Pattern.parse("a")
GIVEN = {"a": np.zeros((9, 5), np.float32)}


class _Slow(Backend):
    """Right, and slow."""

    name = "slow"
    delay, error = 2e-3, 0.0

    def open(self, bundle: Bundle, entry: GraphEntry) -> LoadedGraph:
        real = OnnxRuntimeCpu().open(bundle, entry)

        def run(inputs: Mapping[str, Any]) -> list[Any]:
            time.sleep(self.delay)
            return [output + self.error for output in real.run(inputs)]

        return dataclasses.replace(real, run=run)


class _Wrong(_Slow):
    """Fast, and wrong by a little."""

    name = "wrong"
    delay, error = 0.0, 1e-2


class _Absent(Backend):
    """Cannot run here."""

    name = "absent"

    def __init__(self) -> None:
        raise BackendUnavailable("no such device; plug one in")

    def open(self, bundle: Bundle, entry: GraphEntry) -> LoadedGraph:
        raise AssertionError


@pytest.fixture
def bundle(
    request: pytest.FixtureRequest, make_bundle: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:  # fmt: skip
    """A bundle whose manifest names backends that are slow, wrong or not there. Its parameter:
    whether it has graphs for streams too, whose encoders patterns may share."""
    shapes = ("latency", "stream") if getattr(request, "param", "") else ("latency",)
    kinds: dict[str, Any] = {"slow": _Slow, "wrong": _Wrong, "absent": _Absent}
    known: dict[str, Callable[..., Backend]] = {
        name: (lambda _, kind=kind: kind()) for name, kind in kinds.items()
    }
    known["onnxruntime-cpu"] = lambda options: OnnxRuntimeCpu(options.threads)
    precisions = ("fp32", "int8")
    made = make_bundle(("a", "t"), precisions, shapes=shapes)
    return with_backends(made, tmp_path, monkeypatch, known, precisions)


def _options(tmp_path: Path) -> BackendOptions:
    return BackendOptions(cache=tmp_path / "cache")


def _kept(tmp_path: Path) -> tuple[Path, Any]:
    """The file of what was chosen, and its content."""
    (path,) = (tmp_path / "cache" / "choices").iterdir()
    return path, json.loads(path.read_text())


def test_the_fastest_that_is_right_is_taken(bundle: Path, tmp_path: Path) -> None:
    auto = Predictor(bundle, options=_options(tmp_path))
    answer = auto.predict(GIVEN)
    assert (answer.backend, answer.requested) == ("onnxruntime-cpu", "auto")
    outcomes = {t.candidate.backend: t for t in auto.explain() if t.pattern == PATTERN}
    assert outcomes["onnxruntime-cpu"].outcome == "taken"
    assert outcomes["slow"].outcome == "slower"
    assert (outcomes["slow"].seconds or 0) > (outcomes["onnxruntime-cpu"].seconds or 1)
    assert outcomes["wrong"].outcome == "refused"
    assert "largest difference of a logit" in outcomes["wrong"].detail
    assert outcomes["absent"].outcome == "unavailable"
    assert outcomes["absent"].detail == "no such device; plug one in"


@STREAMING
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_preloading_shares_what_was_proven(bundle: Path, tmp_path: Path, precision: str) -> None:
    auto = Predictor(bundle, preload=True, precision=precision, options=_options(tmp_path))
    answer = auto.predict(GIVEN)
    assert answer.backend == "onnxruntime-cpu"
    outcomes = {(t.candidate.backend, t.candidate.precision): t.outcome for t in auto.history}
    assert outcomes["slow", "fp32"] == "slower"
    assert outcomes["wrong", "fp32"] == "refused"
    assert outcomes["absent", "fp32"] == "unavailable"
    assert "taken" in (
        outcomes["onnxruntime-cpu", p] for p in ("fp32", "int8") if p in str(outcomes)
    )
    one = Predictor(bundle, preload=True, backend="slow", options=_options(tmp_path))
    assert one.predict(GIVEN).backend == "slow"


@pytest.mark.parametrize("threads", [True, "4", 0, 1.0])
def test_threads_are_a_whole_number(bundle: Path, threads: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"threads: got {threads!r}, wanted a whole")):
        Predictor(bundle, threads=threads)


def test_precisions_join_when_allowed(bundle: Path, tmp_path: Path) -> None:
    auto = Predictor(bundle, precision="auto", options=_options(tmp_path))
    tried = {(t.candidate.backend, t.candidate.precision) for t in auto.explain()}
    assert {("onnxruntime-cpu", "fp32"), ("onnxruntime-cpu", "int8")} <= tried
    only = Predictor(bundle, options=_options(tmp_path))
    assert {t.candidate.precision for t in only.explain()} == {"fp32"}


@STREAMING
@pytest.mark.parametrize("preload", [False, True])
def test_threads_are_measured_when_asked_for(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preload: bool
) -> None:
    monkeypatch.setattr("ifmmin.runtime.sessions.usable_cores", lambda: 2)
    told: dict[str, Any] = {"backend": "onnxruntime-cpu", "options": _options(tmp_path)}
    auto = Predictor(bundle, preload=preload, threads="auto", **told)
    tried = auto.history if preload else auto.explain()
    assert {t.candidate.threads for t in tried} == {1, 2}


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 0.01),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "0 100000"}, None),
        ("0::/\n", {"cpu.max": "1\u00b2 x y"}, None),
        ("0::/\n", {}, None),
        ("", {"cpu.max": "50000 100000\n"}, 0.5),
        ("", {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ("garbage\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("4:cpu,cpuacct:/docker/x\n", {
            "cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ("4:cpu,cpuacct:/docker/x\n", {
            "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "200000\n",
            "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n"}, 2.0),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("9:cpuset:/\n0::/../..\n", {"cpu.max": "50000 100000"}, 0.5),
    ],
)  # fmt: skip
def test_quotas_of_containers(group: str, files: dict[str, str], quota: float | None) -> None:
    texts = {f"/sys/fs/cgroup/{path}": text for path, text in files.items()}
    texts["/proc/self/cgroup"] = group

    def read(path: str) -> str:
        return texts.get(path, "")

    assert cpu_quota(read) == quota
    alone = usable_cores(lambda path: "")
    assert alone >= 1
    assert usable_cores(read) == (alone if quota is None else max(1, min(alone, math.ceil(quota))))


@pytest.mark.parametrize(("gain", "outcome"), [(0.95, "heavier"), (0.6, "taken"), (1.2, "slower")])
def test_what_takes_memory_has_to_gain_time(
    make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float, outcome: str
) -> None:
    class _Other(_Slow):
        delay = 8e-3

    class _Heavy(_Slow):
        delay = gain * 8e-3

    known = {"onnxruntime-cpu": lambda _: _Other(), "openvino": lambda _: _Heavy()}
    bundle = with_backends(
        make_bundle(("a", "t"), shapes=("latency",)), tmp_path, monkeypatch, known
    )
    trials = {
        t.candidate.backend: t for t in Predictor(bundle, options=_options(tmp_path)).explain()
    }
    assert trials["openvino"].outcome == outcome
    if outcome == "heavier":
        assert "not 15% faster than onnxruntime-cpu" in trials["openvino"].detail
        assert trials["onnxruntime-cpu"].outcome == "taken"


def test_choices_are_kept(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Predictor(bundle, options=_options(tmp_path)).predict(GIVEN)
    _, record = _kept(tmp_path)
    assert record["choices"]["latency a"]["backend"] == "onnxruntime-cpu"
    # Nothing is timed again, and what cannot run is not even asked.
    monkeypatch.setattr("ifmmin.runtime.sessions.Tuner.choose", _forbidden)
    again = Predictor(bundle, options=_options(tmp_path))
    assert again.predict(GIVEN).backend == "onnxruntime-cpu"


def _forbidden(*_: object) -> None:
    raise AssertionError("it was chosen anew")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema": 99, "key": "", "choices": {}}'])
def test_a_damaged_memory_is_no_obstacle(bundle: Path, tmp_path: Path, damage: str) -> None:
    Predictor(bundle, options=_options(tmp_path)).predict(GIVEN)
    path, _ = _kept(tmp_path)
    path.write_text(damage)
    assert Predictor(bundle, options=_options(tmp_path)).predict(GIVEN).logits.shape == (4,)
    assert json.loads(path.read_text())["choices"]


def test_a_memory_of_another_version_is_not_believed(bundle: Path, tmp_path: Path) -> None:
    Predictor(bundle, options=_options(tmp_path)).predict(GIVEN)
    path, record = _kept(tmp_path)
    for change in ({"schema": 99}, {"key": "another"}):
        first = record["choices"]["latency a"]
        wrong = {"latency a": {**first, "backend": "slow", "threads": 0}}
        path.write_text(json.dumps({**record, "choices": wrong, **change}))
        answer = Predictor(bundle, options=_options(tmp_path)).predict(GIVEN)
        assert answer.backend == "onnxruntime-cpu"


def test_what_ran_before_and_cannot_now_is_told_and_replaced(bundle: Path, tmp_path: Path) -> None:
    Predictor(bundle, options=_options(tmp_path)).predict(GIVEN)
    path, record = _kept(tmp_path)
    record["choices"]["latency a"] |= {"backend": "absent", "threads": 0}
    path.write_text(json.dumps(record))
    again = Predictor(bundle, options=_options(tmp_path))
    assert again.predict(GIVEN).backend == "onnxruntime-cpu"
    first = again.history[0]
    assert (first.candidate.backend, first.outcome) == ("absent", "unavailable")
    assert first.detail == "it ran here before: no such device; plug one in"
    assert json.loads(path.read_text())["choices"]["latency a"]["backend"] == "onnxruntime-cpu"


def test_another_device(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("one", "two"):
        monkeypatch.setattr("ifmmin.runtime.sessions.device_name", lambda name=device: name)
        Predictor(bundle, options=_options(tmp_path)).predict(GIVEN)
    assert len(list((tmp_path / "cache" / "choices").iterdir())) == 2


def test_what_was_asked_for_runs_or_says_why_not(bundle: Path, tmp_path: Path) -> None:
    asked = Predictor(bundle, backend="absent", options=_options(tmp_path))
    with pytest.raises(BackendUnavailable, match="no such device; plug one in"):
        asked.predict(GIVEN)
    # A place that cannot be written is no obstacle.
    (tmp_path / "file").touch()
    options = BackendOptions(cache=tmp_path / "file")
    answer = Predictor(bundle, options=options).predict(GIVEN)
    assert answer.backend == "onnxruntime-cpu"
