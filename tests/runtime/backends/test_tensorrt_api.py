"""A module that is absent, broken or too old, and what TensorRT says, reach whoever asked."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ifmmin.runtime.backends.tensorrt_api import (
    MODULES,
    collect,
    load_tensorrt,
    logger_of,
    one_line,
)
from ifmmin.runtime.errors import BackendUnavailable, InputError

CURES = {"tensorrt": "--system-site-packages; elsewhere", "tensorrt-rtx": "'ifmmin[rtx]'"}


def refusal(flavour: str) -> str:
    with pytest.raises(BackendUnavailable) as caught:
        load_tensorrt(flavour)
    message = str(caught.value)
    assert "\n" not in message
    assert CURES[flavour] in message
    return message


@pytest.fixture(params=MODULES)
def flavour(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delitem(sys.modules, MODULES[request.param], raising=False)
    return str(request.param)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "is not installed here"),
     ("raise ImportError('lib.so.10: cannot open\\n  it')", r"(lib.so.10: cannot open it)"),
     ("raise OSError('lib.so.10: cannot open\\n  it')", r"(lib.so.10: cannot open it)"),
     ("import tensorrt_cu99_libs", "(No module named 'tensorrt_cu99_libs')")],
)  # fmt: skip
def test_absent_or_broken(
    flavour: str, text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text:
        (tmp_path / f"{MODULES[flavour]}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
    else:
        monkeypatch.setattr(sys, "path", [])
    assert said in refusal(flavour)


@pytest.mark.parametrize("version", ["8.6.2", "0.9", "unknown"])
def test_too_old(flavour: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(__version__=version, Builder=object)
    monkeypatch.setitem(sys.modules, MODULES[flavour], old)
    if version == "8.6.2" and flavour == "tensorrt-rtx":
        assert load_tensorrt(flavour) is old
    else:
        assert f"version {version}" in refusal(flavour)


def test_a_runtime_without_a_builder(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lean = SimpleNamespace(__version__="11.4.0")
    monkeypatch.setitem(sys.modules, MODULES[flavour], lean)
    assert "with a builder was wanted" in refusal(flavour)


def test_another_flavour() -> None:
    with pytest.raises(InputError, match="use tensorrt or tensorrt-rtx"):
        load_tensorrt("openvino")
    assert one_line(f"  bias_dq:\n\n  has type  Int32\n{NOISE}\n") == "bias_dq: has type Int32"
    assert one_line(NOISE) == NOISE


NOISE = "[checkMacros.cpp] Cuda Runtime (cudaError 35: CUDA driver version is insufficient)"


@pytest.fixture
def logger() -> Any:
    module: Any = ModuleType("tensorrt")
    module.ILogger = object
    assert logger_of(module) is logger_of(module)
    in_front: Any = SimpleNamespace(ILogger=module.ILogger)
    assert logger_of(in_front) is logger_of(module), "one library takes one logger"
    return logger_of(module)


def say(logger: Any, severity: str, text: str) -> None:
    logger.log(SimpleNamespace(name=severity), text)


def test_messages_are_sorted(logger: Any) -> None:
    with collect() as messages:
        say(logger, "VERBOSE", "of no interest")
        say(logger, "WARNING", "an int64\n  input")
        say(logger, "ERROR", "first\nreason")
        say(logger, "INTERNAL_ERROR", "second")
        say(logger, "ERROR", "first reason")
        say(logger, "ERROR", NOISE)
    assert messages.warnings == ["an int64 input"]
    assert messages.reason == "first reason; second"
    assert messages.count == 6
    with collect() as messages:
        say(logger, "ERROR", NOISE)
    assert messages.reason == NOISE, "the only reason there is"
    with collect() as messages:
        pass
    assert messages.reason == "TensorRT gave no reason"


@pytest.mark.parametrize("severity", ["VERBOSE", "INFO", "WARNING", "ERROR"])
def test_sizes_without_meaning_are_found_at_any_severity(logger: Any, severity: str) -> None:
    with collect() as messages:
        say(logger, severity, "Profile kMIN values are not self-consistent. conv5: negative")
    assert len(messages.inconsistent) == 1


def test_an_error_outside_of_work_is_logged(logger: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        say(logger, "WARNING", "nobody asked")
        say(logger, "ERROR", "out of\nmemory")
    assert [record.message for record in caplog.records] == ["out of memory"]


_SIGNALLED = """
import signal
from ifmmin.runtime.backends.tensorrt_api import collect

def handler(number, frame):
    print("handled")
    raise SystemExit(5)

signal.signal(signal.{name}, handler)
with collect() as messages:
    signal.raise_signal(signal.{name})
    print("noted", type(messages.interrupt).__name__)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_waits_for_the_end_of_the_work(name: str) -> None:
    """In a process of its own, which nothing else has touched."""
    ran = subprocess.run(
        [sys.executable, "-c", _SIGNALLED.format(name=name)], capture_output=True, text=True
    )
    assert ran.stdout.splitlines() == ["noted KeyboardInterrupt", "handled"], ran.stderr
    assert ran.returncode == 5
