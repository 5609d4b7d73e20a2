"""OpenVINO answers every graph in float32, whatever the processor would rather compute in."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from golden_graphs import require_golden, runs_as_its_own
from small_bundles import copied, put, small_bundle

from ifmmin.runtime.backends.openvino import OpenVino
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import BackendUnavailable

PATTERNS = ("a", "v", "t", "a_v", "a_t", "v_t", "a_v_t")


@pytest.fixture
def backend() -> OpenVino:
    pytest.importorskip(
        "openvino", reason="OpenVINO is not installed: pip install 'ifmmin[openvino]'"
    )
    return OpenVino()


@pytest.fixture
def bundle(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(small_bundle(make_network, tmp_path_factory, PATTERNS))


def refusal() -> str:
    with pytest.raises(BackendUnavailable) as caught:
        OpenVino()
    assert "\n" not in str(caught.value)
    assert "pip install 'ifmmin[openvino]'" in str(caught.value)
    return str(caught.value)


def test_golden_vectors_of_every_pattern_and_shape(
    backend: OpenVino, bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    cores = os.sched_getaffinity(0) if sys.platform == "linux" else None
    opened = require_golden(bundle, backend)
    assert len(opened) == 3 * len(PATTERNS) + 2 * 3
    for loaded in opened:
        assert loaded.placement["CPU"] > 2
    assert capfd.readouterr() == ("", "")
    if cores is not None:
        assert os.sched_getaffinity(0) == cores, "the process was bound to cores"


@pytest.mark.parametrize("shape", ["latency", "throughput"])
def test_answers_are_the_callers(backend: OpenVino, bundle: Bundle, shape: str) -> None:
    runs_as_its_own(bundle, backend, shape)


def test_it_computes_in_float32(backend: OpenVino, bundle: Bundle) -> None:
    compiled = backend._compile(bundle.graph(bundle.manifest.graphs[0]))
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    kinds = {i["runtimePrecision"].value for i in infos if i["layerType"].value != "Const"}
    assert kinds <= {"f32", "i32", "i64", "u8", "boolean"}, "neither bf16 nor f16"


def test_a_graph_that_it_cannot_run(backend: OpenVino, bundle: Bundle, tmp_path: Path) -> None:
    folder = copied(bundle.directory, tmp_path)
    put(folder, "a.latency.fp32.onnx", b"no graph")
    spoilt = Bundle(folder)
    with pytest.raises(BackendUnavailable, match=r"cannot run a\.latency\.fp32\.onnx \(") as caught:
        backend.open(spoilt, spoilt.manifest.graphs[0])
    assert "\n" not in str(caught.value)


def test_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "is not installed" in refusal()


@pytest.mark.parametrize("text", ["raise OSError('libtbb:\\n gone')", "import openvino_absent"])
def test_broken(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openvino.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    message = refusal()
    assert "does not load (" in message
    assert "libtbb: gone" in message or "openvino_absent" in message


@pytest.mark.parametrize("devices", [[], ["GPU"]])
def test_no_plugin_for_the_cpu(devices: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    core = SimpleNamespace(available_devices=devices)
    fake = SimpleNamespace(__version__="2026.4.1-22982-x", Core=lambda: core)
    monkeypatch.setitem(sys.modules, "openvino", fake)
    assert "OpenVINO 2026.4.1 has no CPU plugin" in refusal()
