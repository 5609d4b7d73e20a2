"""ONNX Runtime and OpenVINO: where nodes run is told, nothing is printed, refusals have a cure."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from fake_onnxruntime import CPU, CUDA, TENSORRT, FakeOnnxRuntime, fake_driver
from small_bundles import ALL, copied, put, require_golden, runs_as_its_own

from ifmmin.runtime.backends import onnxruntime_gpu
from ifmmin.runtime.backends.base import Backend, LoadedGraph
from ifmmin.runtime.backends.onnxruntime import UNKNOWN, OnnxRuntimeCpu
from ifmmin.runtime.backends.onnxruntime_gpu import OnnxRuntimeCuda, OnnxRuntimeTensorrt
from ifmmin.runtime.backends.openvino import OpenVino
from ifmmin.runtime.bundle import PRECISIONS, Bundle
from ifmmin.runtime.errors import BackendUnavailable, one_line

ASSIGNMENT = "get_provider_graph_assignment_info"
"""Versions have it since 1.24."""


@pytest.fixture
def bundle(make_bundle: Any) -> Bundle:
    return Bundle(make_bundle())


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


@pytest.fixture(params=[OnnxRuntimeCpu, OpenVino], ids=["onnxruntime", "openvino"])
def engine(request: pytest.FixtureRequest) -> Backend:
    if request.param is OpenVino:
        pytest.importorskip(
            "openvino", reason="OpenVINO is not installed: pip install 'ifmmin[openvino]'"
        )
    made: Backend = request.param()
    return made


@pytest.mark.parametrize("shape", ["latency", "throughput"])
def test_answers_are_the_callers(engine: Backend, bundle: Bundle, shape: str) -> None:
    """Of a graph whose outputs are bound once, and of one that is run freely."""
    runs_as_its_own(bundle, engine, shape)


def test_a_graph_that_it_cannot_run(engine: Backend, bundle: Bundle, tmp_path: Path) -> None:
    folder = copied(bundle.directory, tmp_path)
    name = "a.latency.fp32.onnx"
    model = onnx.load(folder / name)
    model.graph.node[-1].op_type = "Unheard"
    put(folder, name, model.SerializeToString())
    damaged = Bundle(folder)
    with pytest.raises(BackendUnavailable, match=r"cannot run a\.latency\.fp32\.onnx \(") as caught:
        engine.open(damaged, damaged.manifest.graphs[0])
    assert "\n" not in str(caught.value)


def _ir(model: onnx.ModelProto) -> None:
    model.ir_version = 99


def _opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


def _operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Frobnicate"


@pytest.mark.parametrize(
    ("change", "said"),
    [(_ir, "Unsupported model IR version: 99, max supported"), (_opset, "Opset 99"),
     (_operator, "No Op registered for Frobnicate")],
)  # fmt: skip
def test_a_graph_of_a_newer_time_is_named(
    change: Callable[[onnx.ModelProto], None], said: str, bundle: Bundle, tmp_path: Path
) -> None:
    folder = copied(bundle.directory, tmp_path)
    model = onnx.load(folder / "a.latency.fp32.onnx")
    change(model)
    put(folder, "a.latency.fp32.onnx", model.SerializeToString())
    newer = Bundle(folder)
    entry = next(e for e in newer.manifest.graphs if e.file == "a.latency.fp32.onnx")
    with pytest.raises(BackendUnavailable, match=said) as caught:
        OnnxRuntimeCpu().open(newer, entry)
    assert "onnxruntime_src" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_long_complaint_keeps_its_beginning_and_its_end() -> None:
    text = one_line(RuntimeError(f"first words, {'and so on, ' * 99}last words"))
    assert (text[:11], text[-10:], len(text)) == ("first words", "last words", 305)


ENGINES: list[tuple[Any, str, str]] = [
    (OnnxRuntimeCpu, "onnxruntime", r"pip install 'ifmmin\[cpu\]'"),
    (OpenVino, "openvino", r"pip install 'ifmmin\[openvino\]'"),
]


@pytest.mark.parametrize(("kind", "module", "cure"), ENGINES)
@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "is not installed"),
     ("raise ImportError('lib:\\n gone')", r"does not load \(lib: gone"),
     ("raise OSError('lib:\\n gone')", r"does not load \(lib: gone"),
     ("import of_it_absent", r"does not load \(.*of_it_absent"),
     ("1/0", r"does not load \(division"), ("x = (", r"does not load \(.*never closed"),
     ("numpy_abi = None.x", r"does not load \(.*no attribute 'x'"), ("", r"does not load \(")],
)  # fmt: skip
def test_an_engine_that_is_absent_or_broken(
    kind: Any, module: str, cure: str, text: str | None, said: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if text is None:
        monkeypatch.setitem(sys.modules, module, None)
    else:
        (tmp_path / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(BackendUnavailable, match=f"{said}.*{cure}") as caught:
        kind()
    assert "\n" not in str(caught.value)


def test_versions_that_do_not_tell(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(onnxruntime.InferenceSession.__mro__[1], ASSIGNMENT, raising=False)
    loaded = OnnxRuntimeCpu().open(bundle, bundle.manifest.graphs[0])
    assert loaded.placement == {}
    assert loaded.notes == (UNKNOWN,)


def test_graphs_for_other_engines_are_computed_literally(make_bundle: Any) -> None:
    bundle = Bundle(make_bundle(("a_t",), PRECISIONS))
    entry = next(e for e in bundle.manifest.graphs if e.key[::2] == ("latency", "int8-qdq"))
    backend = OnnxRuntimeCpu()
    inputs = {m.value: x for m, x in bundle.golden()[0].features.items()}
    literal = backend.load(bundle.graph(entry), literal=True)(inputs)[0]
    assert np.array_equal(backend.open(bundle, entry).run(inputs)[0], literal)


KINDS: list[type[OnnxRuntimeCuda]] = [OnnxRuntimeCuda, OnnxRuntimeTensorrt]


@pytest.fixture
def typed(make_bundle: Any) -> Bundle:
    return Bundle(make_bundle(("a_t",), PRECISIONS))


@pytest.fixture
def module(
    bundle: Bundle, typed: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FakeOnnxRuntime:
    """In the place of the real one, with which the bundles were made."""
    fake = FakeOnnxRuntime(tmp_path / "onnxruntime").install()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr(onnxruntime_gpu, "load_driver", fake_driver)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    return fake


def opened(backend: Backend, bundle: Bundle, file: str = "a_t.latency.fp32.onnx") -> LoadedGraph:
    return backend.open(bundle, next(e for e in bundle.manifest.graphs if e.file == file))


def refusal(backend: Backend, bundle: Bundle) -> str:
    with pytest.raises(BackendUnavailable) as caught:
        opened(backend, bundle)
    assert "\n" not in str(caught.value)
    assert "a_t.latency.fp32.onnx" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_falling_back(module: FakeOnnxRuntime, bundle: Bundle, kind: type[OnnxRuntimeCuda]) -> None:
    """Without a word, as it does where a library is missing."""
    module.falls_back = True
    message = refusal(kind(), bundle)
    assert f"a session without {kind.provider} (it has {CPU})" in message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nodes", [{CPU: ["Gemm", "Shape"]}, {CPU: ["Shape", "Gather"]}])
def test_a_session_that_leaves_all_to_the_cpu(
    module: FakeOnnxRuntime, bundle: Bundle, kind: type[OnnxRuntimeCuda], nodes: dict[str, Any]
) -> None:
    module.nodes = nodes
    assert f"{kind.provider} does not compute" in refusal(kind(), bundle)


@pytest.mark.parametrize("operator", ["LSTM", "FusedConv", "MatMulInteger", "Scan", "Gemm"])
def test_a_node_on_the_cpu(module: FakeOnnxRuntime, bundle: Bundle, operator: str) -> None:
    module.nodes = {CUDA: ["Gemm", "Relu", "Conv"], CPU: ["Shape", operator]}
    message = refusal(OnnxRuntimeCuda(), bundle)
    assert f"of its nodes 3 on {CUDA}, 2 on {CPU} (1 {operator})" in message


def test_sizes_may_be_computed_on_the_cpu(module: FakeOnnxRuntime, bundle: Bundle) -> None:
    module.nodes = {CUDA: ["LSTM", "Gemm"], CPU: ["Shape", "Gather", "Concat"]}
    loaded = opened(OnnxRuntimeCuda(), bundle)
    assert loaded.placement == {CUDA: 2, CPU: 3}
    assert loaded.notes == (f"2 nodes on {CUDA}, 3 on {CPU}",)
    # What TensorRT leaves may run on CUDA.
    module.nodes = {TENSORRT: ["Gemm"], CUDA: ["LSTM"]}
    loaded = opened(OnnxRuntimeTensorrt(), bundle)
    assert loaded.placement == {TENSORRT: 1, CUDA: 1}
    assert loaded.notes[0] == f"1 nodes on {TENSORRT}, 1 on {CUDA}"


def test_float32_stays_where_nothing_is_told(module: FakeOnnxRuntime, bundle: Bundle) -> None:
    loaded = opened(OnnxRuntimeCuda(), bundle)
    assert (loaded.placement, loaded.notes) == ({}, (UNKNOWN,))
    assert module.requests == [[(CUDA, {"device_id": "0", "use_tf32": "0"})]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["a.throughput.fp32.onnx", "t.step.fp32.onnx", "a.head.fp32.onnx"])
def test_the_smallest_inputs_are_run_once(
    module: FakeOnnxRuntime, bundle: Bundle, kind: type[OnnxRuntimeCuda], file: str
) -> None:
    entry = opened(kind(), bundle, file).entry
    ((inputs,),) = (session.inputs for session in module.sessions)
    assert list(inputs) == [tensor.name for tensor in entry.inputs]
    for tensor in entry.inputs:
        array = inputs[tensor.name]
        assert str(array.dtype) == tensor.dtype
        fixed = [(a, b) for a, b in zip(array.shape, tensor.shape, strict=True) if b != str(b)]
        assert all(a == b for a, b in fixed)
        assert array.shape[0] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_that_is_not_for_this_gpu(
    module: FakeOnnxRuntime, bundle: Bundle, kind: type[OnnxRuntimeCuda]
) -> None:
    module.run_failure = RuntimeError("CUDA error 209:\n no kernel image is available")
    message = refusal(kind(), bundle)
    assert "on Orin (CUDA error 209: no kernel image is available); take another" in message
    module.failures = [RuntimeError("libcudnn.so.9: cannot open")]  # it is looked for late
    assert "run pip install 'onnxruntime-gpu[cudnn]', or" in refusal(OnnxRuntimeCuda(), bundle)


def test_tensorrt_is_told_sizes_and_places(module: FakeOnnxRuntime, bundle: Bundle) -> None:
    opened(OnnxRuntimeTensorrt(), bundle)
    ((name, options), cuda) = module.requests[0]
    assert (name, cuda[0]) == (TENSORRT, CUDA)
    shortest = bundle.manifest.modalities
    assert options["trt_profile_min_shapes"] == "a:{}x5,t:{}x11".format(
        *(spec.minimum_length for modality, spec in shortest.items() if modality.value in "at")
    )
    assert {"trt_profile_opt_shapes", "trt_profile_max_shapes"} < set(options)
    assert not {"trt_fp16_enable", "trt_int8_enable"} & set(options), "precision is the graph's"
    for what in ("engine", "timing"):
        assert options[f"trt_{what}_cache_enable"] == "1"
        assert Path(options[f"trt_{what}_cache_path"]).is_dir()


@pytest.mark.parametrize("precision", ["fp16", "int8-qdq"])
def test_the_graphs_type_is_allowed(
    precision: str, module: FakeOnnxRuntime, typed: Bundle, tmp_path: Path
) -> None:
    entry = next(e for e in typed.manifest.graphs if e.precision == precision)
    loaded = OnnxRuntimeTensorrt(cache=tmp_path).open(typed, entry)
    options = module.requests[0][0][1]
    flags = {"trt_fp16_enable": "fp16", "trt_int8_enable": "int8-qdq"}
    assert {flags[name] for name in flags if name in options} == {precision}
    assert not any("TF32" in note for note in loaded.notes)


def test_tf32_is_noted_where_the_environment_allows_it(
    module: FakeOnnxRuntime, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any("NVIDIA_TF32_OVERRIDE=0" in n for n in opened(OnnxRuntimeTensorrt(), bundle).notes)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert opened(OnnxRuntimeTensorrt(), bundle).notes == (UNKNOWN,)
    places = [request[0][1]["trt_engine_cache_path"] for request in module.requests]
    assert places[0] != places[1], "an engine with TF32 would be taken for one without"


def test_a_kept_engine_that_fails_is_built_anew(module: FakeOnnxRuntime, bundle: Bundle) -> None:
    opened(OnnxRuntimeTensorrt(), bundle)
    kept = Path(module.requests[0][0][1]["trt_engine_cache_path"]) / "some.engine"
    kept.write_bytes(b"cut off")
    module.failures = [RuntimeError("could not deserialize")]
    assert "the kept engine was built anew" in opened(OnnxRuntimeTensorrt(), bundle).notes
    assert not kept.exists()
    # Without anything kept there is nothing to be tried again.
    module.failures = [RuntimeError("could not build")]
    assert "(could not build)" in refusal(OnnxRuntimeTensorrt(), bundle)


def test_a_cache_that_cannot_be_written(
    module: FakeOnnxRuntime, bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    loaded = opened(OnnxRuntimeTensorrt(cache=tmp_path / "file"), bundle)
    assert any(note.startswith("engines are not kept: ") for note in loaded.notes)
    assert "trt_engine_cache_enable" not in module.requests[0][0][1]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_golden_vectors_on_a_real_gpu(
    kind: type[OnnxRuntimeCuda], bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    try:
        backend = kind()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    for loaded in require_golden(bundle, backend):
        assert loaded.placement.get(kind.provider)
    for shape in ("latency", "throughput"):
        runs_as_its_own(bundle, backend, shape)


@pytest.fixture
def every(make_bundle: Any) -> Bundle:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    return Bundle(make_bundle(ALL))


def test_golden_vectors_of_everything(every: Bundle, capfd: pytest.CaptureFixture[str]) -> None:
    cores = os.sched_getaffinity(0) if sys.platform == "linux" else None
    opened = require_golden(every, OpenVino())
    assert len(opened) == 3 * len(ALL) + 2 * 3
    for loaded in opened:
        assert loaded.placement["CPU"] > 2
    assert capfd.readouterr() == ("", "")
    if cores is not None:
        assert os.sched_getaffinity(0) == cores, "the process was bound to cores"


def test_it_computes_in_float32(every: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    core, made = importlib.import_module("openvino").Core, list[Any]()
    compile_model = core.compile_model

    def compiling(*arguments: Any) -> Any:
        made.append(compile_model(*arguments))
        return made[-1]

    monkeypatch.setattr(core, "compile_model", compiling)
    OpenVino().open(every, every.manifest.graphs[0])
    (compiled,) = made
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    kinds = {i["runtimePrecision"].value for i in infos if i["layerType"].value != "Const"}
    assert kinds <= {"f32", "i32", "i64", "u8", "boolean"}, "neither bf16 nor f16"


@pytest.mark.parametrize("devices", [[], ["GPU"]])
def test_no_plugin_for_the_cpu(devices: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    core = SimpleNamespace(available_devices=devices)
    fake = SimpleNamespace(__version__="2026.4.1-22982-x", Core=lambda: core)
    monkeypatch.setitem(sys.modules, "openvino", fake)
    with pytest.raises(BackendUnavailable, match=r"OpenVINO 2026.4.1 has no CPU plugin"):
        OpenVino()
