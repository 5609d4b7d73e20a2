"""Libraries may crash, hang or print; the questions that load them are answered all the same."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ifmmin.runtime.doctor import answer
from ifmmin.runtime.doctor.answer import ask_cuda
from ifmmin.runtime.doctor.probes import ask

_SCRIPT = """
import json, os, signal, sys, time
for name in sys.argv[1:]:
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "end":
        os._exit(7)
    if name == "hang":
        time.sleep(60)
    if name == "noise":
        print("*** EP Error ***")
        print("[1]", flush=True)
    print(json.dumps([name, {"said": name}]), flush=True)
"""
_COMMAND = (sys.executable, "-S", "-c", _SCRIPT)


def test_answers() -> None:
    assert ask(["a", "noise"], command=_COMMAND) == {"a": {"said": "a"}, "noise": {"said": "noise"}}
    assert ask([]) == {}


def test_the_others_are_answered_when_one_crashes() -> None:
    answers = ask(["a", "crash", "b", "end", "c"], command=_COMMAND)
    assert [answers[name].get("said") for name in "abc"] == ["a", "b", "c"]
    assert "SIGSEGV" in answers["crash"]["error"]
    assert "code 7" in answers["end"]["error"]


def test_a_hang_is_given_up() -> None:
    answers = ask(["a", "hang", "b"], command=_COMMAND, patience=3.0)
    assert "within 3 s" in answers["hang"]["error"]
    assert answers["b"] == {"said": "b"}


def test_no_process_at_all() -> None:
    assert "no process" in ask(["a"], command=("/nonexistent/python",))["a"]["error"]


def test_the_real_questions() -> None:
    questions = [
        "onnxruntime",
        "backend:onnxruntime-cpu",
        "backend:none",
        "bundle:onnxruntime-cpu:/x",
    ]
    answers = ask(questions)
    assert "CPUExecutionProvider" in answers["onnxruntime"]["providers"]
    assert answers["backend:onnxruntime-cpu"] == {}
    assert "unknown backend" in answers["backend:none"]["error"]
    assert "no bundle at /x" in answers["bundle:onnxruntime-cpu:/x"]["error"]


class _Driver:
    """libcuda with one GPU, or one that does not start."""

    def __init__(self, start: int) -> None:
        self.cuInit = lambda flags: start

    def __getattr__(self, name: str) -> Any:
        if name == "cuGetErrorName":
            return self._error_name
        values = {
            "cuDriverGetVersion": 12060,
            "cuDeviceGetCount": 1,
            "cuDeviceTotalMem_v2": 1 << 33,
        }

        def call(target: Any, *rest: Any) -> int:
            if name == "cuDeviceGetName":
                target.value = b"Orin"
            else:
                attribute = {75: 8, 76: 7}.get(rest[0]) if rest and type(rest[0]) is int else None
                target._obj.value = attribute or values.get(name, 0)
            return 0

        return call

    def _error_name(self, code: int, text: Any) -> int:
        text._obj.value = b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"
        return 0


def _load(monkeypatch: pytest.MonkeyPatch, start: int) -> dict[str, Any]:
    fake = SimpleNamespace(**{name: getattr(ctypes, name) for name in dir(ctypes)})
    fake.CDLL = lambda name: _Driver(start)
    monkeypatch.setattr(answer, "ctypes", fake)
    return ask_cuda()


def test_a_driver_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"name": "Orin", "compute_capability": "8.7", "memory": 1 << 33}
    assert _load(monkeypatch, 0) == {"version": "12.6", "gpus": [gpu]}


def test_a_driver_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _load(monkeypatch, 803)
    assert found["version"] == "12.6"
    assert "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)" in found["error"]


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert ask_cuda() == {}
