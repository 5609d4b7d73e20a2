"""Repositories for Triton: every configuration says what its graph does; `make test-triton` serves
one by a real Triton."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
from run_command import call
from small_bundles import ALL

from ifmmin.export.bundle_cli import main
from ifmmin.export.triton.config import Word, require_fitting, to_text
from ifmmin.export.triton.repository import write_repository
from ifmmin.runtime import BundleError
from ifmmin.runtime.bundle import Bundle, shipped


@pytest.fixture(params=["batches", "one by one"])
def bundle(request: pytest.FixtureRequest, make_bundle: Callable[..., Path]) -> Bundle:
    if request.param == "batches":
        return Bundle(make_bundle(ALL))
    return Bundle(make_bundle(ALL, shapes=("latency", "stream")))


def test_every_configuration_is_its_graph(bundle: Bundle, tmp_path: Path) -> None:
    names = write_repository(bundle, tmp_path / "repository")
    assert names == [*map(str, bundle.patterns), "emotion", "stream"]
    assert sorted(p.name for p in (tmp_path / "repository").iterdir()) == sorted(names)
    for pattern in bundle.patterns:
        folder = tmp_path / "repository" / str(pattern)
        text = (folder / "config.pbtxt").read_text()
        graph = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
        batched = bundle.has("throughput", pattern)
        assert f"max_batch_size: {32 * batched}\n" in text
        assert ("dynamic_batching" in text) == batched
        require_fitting(text, graph, batched)
        for one in graph.get_inputs():
            assert f'  name: "{one.name}"\n' in text
        wrong = (
            text.replace(f"dims: [{len(bundle.manifest.labels)}]", "dims: [8]"),
            text.replace("TYPE_FP32", "TYPE_FP16", 1),
            text.replace('name: "logits"', 'name: "logit"'),
            text.replace("dims: [-1, ", "dims: [-1, 1", 1),
        )
        for changed in wrong:
            assert changed != text
            with pytest.raises(BundleError, match=r"the configuration says .* the graph"):
                require_fitting(changed, graph, batched)
    kept = {p.name for p in (tmp_path / "repository" / "stream" / "1" / "bundle").iterdir()}
    shapes = {"step", "summary", "head"}
    assert kept == {
        "manifest.json", bundle.manifest.golden.file,
        *(entry.file for entry in bundle.manifest.graphs if entry.shape in shapes),
    }  # fmt: skip
    assert Bundle(tmp_path / "repository" / "stream" / "1" / "bundle").stream_patterns


def test_devices_and_places(tmp_path: Path) -> None:
    out = tmp_path / "repository"
    for device, kind in (("cpu", "KIND_CPU"), ("gpu", "KIND_GPU"), ("tensorrt", "KIND_GPU")):
        ran = call(main, "triton", "-o", out, "--device", device)
        assert (ran.code, "a, t, a_t, emotion, stream" in ran.err) == (0, True)
        text = (out / "a" / "config.pbtxt").read_text()
        assert kind in text
        assert ('name: "tensorrt"' in text) == (device == "tensorrt")
        for name in ("emotion", "stream"):
            compile((out / name / "1" / "model.py").read_text(), name, "exec")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    ran = call(main, "triton", "-o", tmp_path / "full")
    assert (ran.code, "holds other things" in ran.err) == (2, True)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["x"]


def test_text() -> None:
    config = {
        "name": 'a"b\\', "count": 1, "kind": Word("KIND_CPU"), "dims": [-1, 5], "none": [],
        "optional": True, "input": [{"name": "a"}, {"name": "b"}], "one": {"two": {"three": 3}},
    }  # fmt: skip
    assert to_text(config) == (
        'name: "a\\"b\\\\"\ncount: 1\nkind: KIND_CPU\ndims: [-1, 5]\nnone: []\noptional: true\n'
        'input {\n  name: "a"\n}\ninput {\n  name: "b"\n}\none {\n  two {\n    three: 3\n  }\n}\n'
    )


def test_a_bundle_of_streams_alone_is_told(make_bundle: Callable[..., Path]) -> None:
    bundle = Bundle(make_bundle(ALL, shapes=("stream",)))
    with pytest.raises(BundleError, match="no graphs of whole utterances"):
        write_repository(bundle, shipped() / "nowhere")
