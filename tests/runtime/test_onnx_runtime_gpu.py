"""A session that would not compute on the GPU is refused, whatever ONNX Runtime makes of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from fake_onnxruntime import CPU, CUDA, TENSORRT, FakeOnnxRuntime, fake_driver
from golden_graphs import require_golden, runs_as_its_own
from small_bundles import small_bundle

from ifmmin.runtime.backends import onnxruntime_gpu
from ifmmin.runtime.backends.base import Backend, Loaded
from ifmmin.runtime.backends.onnxruntime import UNKNOWN
from ifmmin.runtime.backends.onnxruntime_gpu import OnnxRuntimeCuda, OnnxRuntimeTensorrt
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import BackendUnavailable

KINDS: list[type[OnnxRuntimeCuda]] = [OnnxRuntimeCuda, OnnxRuntimeTensorrt]


@pytest.fixture
def bundle(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(small_bundle(make_network, tmp_path_factory))


@pytest.fixture
def typed(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(small_bundle(make_network, tmp_path_factory, ("a_t",), ("fp16", "int8-qdq")))


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


def opened(backend: Backend, bundle: Bundle, file: str = "a_t.latency.fp32.onnx") -> Loaded:
    return backend.open(bundle, next(e for e in bundle.manifest.graphs if e.file == file))


def refusal(backend: Backend, bundle: Bundle) -> str:
    with pytest.raises(BackendUnavailable) as caught:
        opened(backend, bundle)
    assert "\n" not in str(caught.value)
    assert "a_t.latency.fp32.onnx" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_that_falls_back(
    module: FakeOnnxRuntime, bundle: Bundle, kind: type[OnnxRuntimeCuda]
) -> None:
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
def test_a_node_that_computes_on_the_cpu(
    module: FakeOnnxRuntime, bundle: Bundle, operator: str
) -> None:
    module.nodes = {CUDA: ["Gemm", "Relu", "Conv"], CPU: ["Shape", operator]}
    message = refusal(OnnxRuntimeCuda(), bundle)
    assert f"of its nodes 3 on {CUDA}, 2 on {CPU} (1 {operator})" in message


def test_sizes_may_be_computed_on_the_cpu(module: FakeOnnxRuntime, bundle: Bundle) -> None:
    module.nodes = {CUDA: ["LSTM", "Gemm"], CPU: ["Shape", "Gather", "Concat"]}
    loaded = opened(OnnxRuntimeCuda(), bundle)
    assert loaded.placement == {CUDA: 2, CPU: 3}
    assert loaded.notes == (f"2 nodes on {CUDA}, 3 on {CPU}",)


def test_what_tensorrt_leaves_may_run_on_cuda(module: FakeOnnxRuntime, bundle: Bundle) -> None:
    module.nodes = {TENSORRT: ["Gemm"], CUDA: ["LSTM"]}
    loaded = opened(OnnxRuntimeTensorrt(), bundle)
    assert loaded.placement == {TENSORRT: 1, CUDA: 1}
    assert loaded.notes[0] == f"1 nodes on {TENSORRT}, 1 on {CUDA}"


def test_versions_that_do_not_tell(module: FakeOnnxRuntime, bundle: Bundle) -> None:
    loaded = opened(OnnxRuntimeCuda(), bundle)
    assert (loaded.placement, loaded.notes) == ({}, (UNKNOWN,))


def test_float32_stays_float32(module: FakeOnnxRuntime, bundle: Bundle) -> None:
    opened(OnnxRuntimeCuda(), bundle)
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


def test_cudnn_that_is_looked_for_late(module: FakeOnnxRuntime, bundle: Bundle) -> None:
    module.failures = [RuntimeError("libcudnn.so.9: cannot open")]
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


def test_a_kept_engine_that_does_not_load_is_built_anew(
    module: FakeOnnxRuntime, bundle: Bundle
) -> None:
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
