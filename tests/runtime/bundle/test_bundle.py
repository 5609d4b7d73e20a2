"""Bundles that lie: what the manifest or a graph says is refused before an engine sees it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data
from run_command import frames
from safetensors.numpy import load_file, save
from small_bundles import copied, edit, put

from ifmmin.runtime import BundleError, Predictor
from ifmmin.runtime.bundle import MANIFEST_NAME, Bundle

VOICE = "a.latency.fp32.onnx"
GOLDEN = "golden.safetensors"
BACKENDS = ("onnxruntime-cpu", "openvino")


@pytest.fixture
def bundle(make_bundle: Any, tmp_path: Path) -> Path:
    """A copy of a sound bundle of a, t and a_t."""
    return copied(make_bundle(), tmp_path)


def _set(*way: Any) -> Callable[[Any], object]:
    """Put a value, the last, at a place of the manifest."""

    def change(manifest: Any) -> None:
        *path, last, value = way
        for name in path:
            manifest = manifest[name]
        manifest[last] = value

    return change


LABELS: list[Any] = [
    [], ["x"], ["x", "x", "y", "z"], ["a", "b", "", "d"], ["a", "b", " ", "d"],
    ["a", "b", " c", "d"], ["a", "b\n", "c", "d"], ["a", "b\x1b]0;title\x07", "c", "d"],
    ["a", "\u202eb", "c", "d"], ["a", "b\u200b", "c", "d"], ["a", "label", "c", "d"],
    ["Input", "b", "c", "d"], ["a", "b", "seconds", "d"], ["a", "b", "c", "x" * 101], [1, 2, 3, 4],
    ["a", None, "c", "d"], "abcd", {}, ["a", ["b"], "c", "d"],
]  # fmt: skip
WRONG: tuple[Any, ...] = (0, -1, 1.5, "5", None, [], 10**30)
FILES: tuple[Any, ...] = ("", ".", "..", "../a", "/etc/passwd", "a/b", "a\0b", "a\nb", None, 7)
SCHEMAS: tuple[Any, ...] = (None, "4", 0, -1, 5, 10**30, [4])
NAMES: tuple[Any, ...] = ("other", "", None, 3)
REFUSED: dict[str, Callable[[Any], object]] = {
    **{f"labels {n}": _set("labels", labels) for n, labels in enumerate(LABELS)},
    **{f"prior {n}": _set("prior", prior) for n, prior in enumerate([
        [], [1.0], [0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [-1.0, 1.0, 0.5, 0.5], [0, 0, 0, 0],
        [1e308, 0, 0, 0], ["a", "b", "c", "d"], "many", [[0.25] * 4], [0.25, 0.25, 0.25, None]])},
    **{f"{name} {value!r}": _set("modalities", "a", name, value)
       for name in ("dim", "minimum_length", "verified_length")
       for value in WRONG},
    "a minimum without end": _set("modalities", "a", "minimum_length", 10**12),
    **{f"frame_rate {value}": _set("modalities", "a", "frame_rate", value)
       for value in (0, -1.0)},
    "an unknown modality": lambda m: m["modalities"].update(x=m["modalities"]["a"]),
    "no modalities": _set("modalities", None),
    **{f"{name} {value!r}": _set("graphs", 0, name, value)
       for name in ("shape", "precision", "recurrence", "subject")
       for value in NAMES},
    **{f"{part} file {name!r}": _set(*way, "file", name)
       for part, way in {"graph": ("graphs", 0), "golden": ("golden",)}.items()
       for name in FILES},
    **{f"schema {value!r}": _set("schema", value) for value in SCHEMAS},
}  # fmt: skip


@pytest.mark.parametrize("lie", REFUSED)
def test_a_manifest_that_makes_no_sense_is_refused(bundle: Path, lie: str) -> None:
    edit(bundle, REFUSED[lie])
    with pytest.raises(BundleError) as caught:
        Bundle(bundle)
    assert "\n" not in str(caught.value)


BYTES: dict[str, bytes] = {
    "empty": b"", "no JSON": b"manifest", "null": b"null", "a list": b"[]", "a number": b"4",
    "nested without end": b"[" * 200_000, "nested objects": b'{"a":' * 100_000,
    "half": b'{"schema": 4, "labels": ["a"', "Latin-1": b'{"schema": 4, "labels": ["\xe9"]}',
    "a NUL": b'{"schema": 4}\0', "UTF-16": '{"schema": 4}'.encode("utf-16"),
}  # fmt: skip


@pytest.mark.parametrize("content", BYTES)
def test_a_manifest_that_is_no_manifest_is_refused(bundle: Path, content: str) -> None:
    (bundle / MANIFEST_NAME).write_bytes(BYTES[content])
    with pytest.raises(BundleError) as caught:
        Bundle(bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [MANIFEST_NAME, VOICE, GOLDEN])
def test_what_is_no_file_is_refused_and_hangs_nothing(bundle: Path, place: str) -> None:
    for make in (os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")):
        (bundle / place).unlink()
        make(bundle / place)
        with pytest.raises(BundleError, match="wanted a file"):
            _answer(bundle, golden=place == GOLDEN)
        if (bundle / place).is_dir():
            (bundle / place).rmdir()
            (bundle / place).touch()


def _answer(bundle: Path, backend: str = BACKENDS[0], *, golden: bool = False) -> None:
    predictor = Predictor(bundle, backend=backend)
    if golden:
        predictor.bundle.golden()
    predictor.predict({"a": np.array(frames("a", 9), np.float32)})


@pytest.mark.parametrize("directory", [5, b"bundle", ["bundle"], "a\0b", "", "nowhere", "x" * 5000])
def test_what_names_no_bundle_is_refused(directory: Any) -> None:
    with pytest.raises(BundleError):
        Predictor(directory)


LIES: dict[str, Callable[[Any], object]] = {
    "swapped labels": lambda m: m["labels"].reverse(),
    "renamed labels": _set("labels", ["p", "q", "r", "s"]),
    "one label less": lambda m: m["labels"].pop(),
    "one label more": lambda m: m["labels"].append("fifth"),
    "another prior": _set("prior", [0.7, 0.1, 0.1, 0.1]),
    "another minimum": _set("modalities", "a", "minimum_length", 3),
    "another rate": _set("modalities", "a", "frame_rate", 25.0),
    "other features": _set("modalities", "a", "features", "something else"),
    "said to be standardised": _set("modalities", "a", "normalised", True),
    "another checkpoint": _set("checkpoint", "sha256", "0" * 64),
    "another size": lambda m: [g.__setitem__("bytes", g["bytes"] + 1) for g in m["graphs"]],
    "another hash": lambda m: [g.__setitem__("sha256", "0" * 64) for g in m["graphs"]],
    "exchanged subjects": lambda m: [
        g.__setitem__("subject", {"a": "t", "t": "a"}.get(g["subject"], g["subject"]))
        for g in m["graphs"]
    ],
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_manifest_that_lies_answers_nothing(bundle: Path, lie: str, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    edit(bundle, LIES[lie])
    with pytest.raises(BundleError):
        _answer(bundle, backend)


def _external(model: Any, folder: Path) -> None:
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    set_external_data(tensor, location="weights.bin")
    tensor.ClearField("raw_data")


def _external_constant(model: Any, folder: Path) -> None:
    tensor = helper.make_tensor("c", TensorProto.FLOAT, [1], b"four", raw=True)
    set_external_data(tensor, location="weights.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def _foreign(model: Any, folder: Path) -> None:
    model.graph.node.append(helper.make_node("Sneak", ["a"], ["s"], domain="evil.ops"))


def _choice(model: Any, folder: Path) -> None:
    branch = helper.make_graph([], "branch", [], [])
    node = helper.make_node("If", ["a"], ["c"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)


def _loop(model: Any, folder: Path) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", "", "a"], ["l"], body=body))


def _nested_scan(model: Any, folder: Path) -> None:
    inner = helper.make_node("Scan", [], [], body=helper.make_graph([], "inner", [], []))
    outer = helper.make_graph([inner], "outer", [], [])
    model.graph.node.append(helper.make_node("Scan", [], [], body=outer))


def _function(model: Any, folder: Path) -> None:
    node, opset = helper.make_node("Identity", ["x"], ["y"]), helper.make_opsetid("", 18)
    model.functions.append(helper.make_function("own", "F", ["x"], ["y"], [node], [opset]))


def _sparse(model: Any, folder: Path) -> None:
    model.graph.sparse_initializer.add()


def _twice(model: Any, folder: Path) -> None:
    model.metadata_props.add(key="labels", value="[]")


def _without_metadata(model: Any, folder: Path) -> None:
    del model.metadata_props[:]


def _other_output(model: Any, folder: Path) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 7


def _other_type(model: Any, folder: Path) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def _more_inputs(model: Any, folder: Path) -> None:
    model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [1]))


GRAPHS = (
    _external, _external_constant, _foreign, _choice, _loop, _nested_scan, _function, _sparse,
    _twice, _without_metadata, _other_output, _other_type, _more_inputs,
)  # fmt: skip


@pytest.mark.parametrize("change", GRAPHS, ids=lambda change: change.__name__.strip("_"))
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_that_is_not_ours_answers_nothing(
    bundle: Path, change: Callable[[Any, Path], None], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the manifest has its hash, and what it needs lies at hand."""
    model = onnx.load(bundle / VOICE)
    change(model, bundle)
    put(bundle, VOICE, model.SerializeToString())
    monkeypatch.chdir(bundle)
    with pytest.raises(BundleError) as caught:
        Bundle(bundle).graph(Bundle(bundle).manifest.graphs[0])
    assert "\n" not in str(caught.value)
    if backend == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    with pytest.raises(BundleError):
        _answer(bundle, backend)


NO_GRAPHS = (b"", b"no graph", b"ORTM" * 9, b"\x0a\xff\xff\xff\xff\x0f", b"\x3b" * 40, b"\xff" * 99)


@pytest.mark.parametrize("content", NO_GRAPHS)
def test_bytes_that_are_no_graph(bundle: Path, content: bytes) -> None:
    put(bundle, VOICE, content)
    with pytest.raises(BundleError, match="is no graph"):
        _answer(bundle)


def _golden(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(bundle: Path) -> None:
        tensors = load_file(bundle / GOLDEN)
        change(tensors)
        put(bundle, GOLDEN, save(tensors))

    return spoil


SPOILT: dict[str, Callable[[Path], None]] = {
    "no safetensors": lambda b: put(b, GOLDEN, b"no tensors"),
    "a lying header": lambda b: put(b, GOLDEN, b"\xff" * 8 + b"{}"),
    "an unknown key": _golden(lambda t: t.update({"more": np.zeros(3, np.float32)})),
    "an unknown kind": _golden(lambda t: t.update({"x/0/a": np.zeros(3, np.float32)})),
    "an unknown modality": _golden(lambda t: t.update({"inputs/0/x": t["inputs/0/a"]})),
    "a number in words": _golden(lambda t: t.update({"inputs/one/a": t["inputs/0/a"]})),
    "another width": _golden(lambda t: t.update({"inputs/0/a": np.zeros((3, 6), np.float32)})),
    "flat": _golden(lambda t: t.update({"inputs/0/a": np.zeros(5, np.float32)})),
    "doubles": _golden(lambda t: t.update({"inputs/0/a": np.zeros((3, 5))})),
    "NaN": _golden(lambda t: t.update({"inputs/0/a": np.full((3, 5), np.nan, np.float32)})),
    "other answers": _golden(lambda t: t.update({"logits/a/0": np.zeros(3, np.float32)})),
    "answers to nothing": _golden(lambda t: t.update({"logits/a/99": np.zeros(4, np.float32)})),
    "no inputs": _golden(lambda t: [t.pop(k) for k in list(t) if k.startswith("inputs/")]),
    "inputs that lack one": _golden(lambda t: t.pop("inputs/0/a")),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPOILT)
def test_golden_vectors_that_are_none(bundle: Path, kind: str) -> None:
    SPOILT[kind](bundle)
    with pytest.raises(BundleError, match="is damaged"):
        Bundle(bundle).golden()
    json.loads((bundle / MANIFEST_NAME).read_text())  # the manifest agrees, and is whole
