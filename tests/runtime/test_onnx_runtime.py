"""ONNX Runtime on the CPU: where nodes run is told, nothing is printed, refusals have a cure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from golden_graphs import require_golden, runs_as_its_own
from small_bundles import copied, put, small_bundle

from ifmmin.runtime.backends.onnxruntime import CPU, UNKNOWN, OnnxRuntimeCpu
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import BackendUnavailable

ASSIGNMENT = "get_provider_graph_assignment_info"
"""Versions have it since 1.24."""


@pytest.fixture
def bundle(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(small_bundle(make_network, tmp_path_factory))


@pytest.mark.parametrize("options", [{}, {"threads": 2}, {"threads": 2, "spinning": True}])
def test_golden_vectors(
    bundle: Bundle, options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    tells = hasattr(onnxruntime.InferenceSession, ASSIGNMENT)
    for loaded in require_golden(bundle, OnnxRuntimeCpu(**options)):
        assert set(loaded.placement) == ({CPU} if tells else set())
        assert loaded.placement.get(CPU, 3) > 2
        assert loaded.notes == (() if tells else (UNKNOWN,))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shape", ["latency", "throughput"])
def test_answers_are_the_callers(bundle: Bundle, shape: str) -> None:
    """Of a graph whose outputs are bound once, and of one that is run freely."""
    runs_as_its_own(bundle, OnnxRuntimeCpu(), shape)


def test_versions_that_do_not_tell(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(onnxruntime.InferenceSession.__mro__[1], ASSIGNMENT, raising=False)
    loaded = OnnxRuntimeCpu().open(bundle, bundle.manifest.graphs[0])
    assert loaded.placement == {}
    assert loaded.notes == (UNKNOWN,)


def test_graphs_for_other_engines_are_computed_literally(
    make_network: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = Bundle(small_bundle(make_network, tmp_path_factory, ("a_t",), ("int8-qdq",)))
    entry = next(e for e in bundle.manifest.graphs if e.shape == "latency")
    backend = OnnxRuntimeCpu()
    inputs = {m.value: x for m, x in bundle.golden()[0].features.items()}
    literal = backend.load(bundle.graph(entry), literal=True)(inputs)[0]
    assert np.array_equal(backend.open(bundle, entry).run(inputs)[0], literal)


def test_a_graph_that_it_cannot_run(bundle: Bundle, tmp_path: Path) -> None:
    folder = copied(bundle.directory, tmp_path)
    put(folder, "a.latency.fp32.onnx", b"no graph")
    spoilt = Bundle(folder)
    with pytest.raises(BackendUnavailable, match=r"cannot run a\.latency\.fp32\.onnx \(") as caught:
        OnnxRuntimeCpu().open(spoilt, spoilt.manifest.graphs[0])
    assert "\n" not in str(caught.value)


def test_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'ifmmin\[cpu\]'"):
        OnnxRuntimeCpu()


@pytest.mark.parametrize("kind", ["ImportError", "OSError"])
def test_broken(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text(f"raise {kind}('libgomp.so.1: cannot\\n open')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(BackendUnavailable, match=r"\(libgomp\.so\.1: cannot open\)"):
        OnnxRuntimeCpu()
