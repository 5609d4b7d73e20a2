"""What TensorRT says reaches whoever asked, and nothing is lost."""

from __future__ import annotations

import logging
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ifmmin.runtime.backends.tensorrt_api import collect, logger_of, one_line

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


def test_an_error_outside_of_any_work_is_logged(
    logger: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        say(logger, "WARNING", "nobody asked")
        say(logger, "ERROR", "out of\nmemory")
    assert [record.message for record in caplog.records] == ["out of memory"]


def test_an_interrupt_while_it_speaks_is_kept(logger: Any) -> None:
    class Interrupting:
        @property
        def name(self) -> str:
            raise KeyboardInterrupt

    with collect() as messages:
        logger.log(Interrupting(), "text")
    assert isinstance(messages.interrupt, KeyboardInterrupt)


def test_one_line() -> None:
    assert one_line(f"  bias_dq:\n\n  has type  Int32\n{NOISE}\n") == "bias_dq: has type Int32"
    assert one_line(NOISE) == NOISE
