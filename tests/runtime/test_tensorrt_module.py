"""A module that is absent, broken or too old is said in one line, with the cure."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ifmmin.runtime.backends.tensorrt_api import MODULES, load_tensorrt
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


def install(folder: Path, flavour: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{MODULES[flavour]}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))


def test_absent(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert "is not installed here" in refusal(flavour)


@pytest.mark.parametrize("kind", ["ImportError", "OSError"])
def test_a_library_that_is_not_there(
    flavour: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"raise {kind}('libnvinfer.so.10: cannot open\\n  shared object file')"
    install(tmp_path, flavour, text, monkeypatch)
    assert "(libnvinfer.so.10: cannot open shared object file)" in refusal(flavour)


def test_a_module_of_its_own_that_is_not_there(
    flavour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, flavour, "import tensorrt_cu99_libs", monkeypatch)
    assert "(No module named 'tensorrt_cu99_libs')" in refusal(flavour)


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
