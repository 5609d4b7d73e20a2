"""A bundle on a made-up GPU: engines from the bundle, the cache or a build, and golden answers."""

from __future__ import annotations

import hashlib
import importlib
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import Machine
from recording_module import RecordingModule
from run_command import run_python
from small_bundles import copied, edit, flip, put

from ifmmin.runtime import Predictor
from ifmmin.runtime.backends import BackendOptions, tensorrt
from ifmmin.runtime.backends.base import LoadedGraph
from ifmmin.runtime.backends.profile import profile_of
from ifmmin.runtime.backends.tensorrt import Tensorrt, TensorrtRtx, load_engine
from ifmmin.runtime.backends.tensorrt_build import build_engine
from ifmmin.runtime.bundle import Bundle, GoldenCase, GraphEntry, Manifest
from ifmmin.runtime.errors import BackendUnavailable, EngineError
from ifmmin.runtime.validate import pad_batch

REAL: Any = importlib.import_module("tensorrt_rtx") if find_spec("tensorrt_rtx") else None
"""Before a fake stands in its place."""


@pytest.fixture
def folder(make_bundle: Any, tmp_path: Path) -> Path:
    """A copy of a sound bundle."""
    return copied(make_bundle(precisions=("fp32", "fp16")), tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "engines"


def entry_of(bundle: Bundle, pattern: str = "a_t", shape: str = "latency") -> GraphEntry:
    return next(e for e in bundle.manifest.graphs if e.key[:3] == (shape, pattern, "fp32"))


def opened(folder: Path, store: Path, **options: Any) -> LoadedGraph:
    """The latency graph of a_t, by a backend made for it."""
    bundle = Bundle(folder)
    return Tensorrt(cache=store, **options).open(bundle, entry_of(bundle))


def origin(loaded: LoadedGraph) -> str:
    (found,) = [note for note in loaded.notes if note.startswith("engine ")]
    return found.split()[1]


@pytest.mark.parametrize("backend", [Tensorrt, TensorrtRtx])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_golden_answers(
    gpu: Machine, folder: Path, store: Path, backend: type[Tensorrt], precision: str
) -> None:
    """Twice and in one batch: the first call is plain, a later one may be recorded."""
    bundle = Bundle(folder)
    made = backend(cache=store)
    tolerance = 1e-4 if precision == "fp32" else 0.1
    cases: list[GoldenCase] = []
    for pattern in bundle.patterns:
        cases = [case for case in bundle.golden() if case.pattern == pattern]
        (entry,) = bundle.find("latency", pattern, precision)[:1]
        loaded = made.open(bundle, entry)
        for case in [case for case in cases for _ in range(4)]:
            (logits,) = loaded.run({m.value: x for m, x in case.features.items()})
            np.testing.assert_allclose(logits, case.logits, atol=tolerance)
        (entry,) = bundle.find("throughput", pattern, precision)[:1]
        loaded = made.open(bundle, entry)
        (rows,) = loaded.run(pad_batch([case.features for case in cases], filler=9.0))
        np.testing.assert_allclose(rows, [case.logits for case in cases], atol=tolerance)
    assert gpu.cuda.calls.count("cudaGraphLaunch") > len(cases)
    assert set(gpu.trt.host_code + gpu.rtx.host_code) == {False}


def test_batches_of_any_size(gpu: Machine, folder: Path, store: Path) -> None:
    """An engine takes 64 utterances at a time; more are cut."""
    options = BackendOptions(cache=store)
    predictor = Predictor(folder, backend="tensorrt", options=options)
    inputs = Bundle(folder).golden_inputs()
    utterances = [inputs[number % len(inputs)] for number in range(150)]
    found = predictor.predict_batch(utterances, pattern="a_t", batch_size=150)
    for answer, utterance in [*zip(found, utterances, strict=True)][::37]:
        alone = predictor.predict(utterance, pattern="a_t")
        np.testing.assert_allclose(answer.logits, alone.logits, atol=1e-4)


def test_every_graph_of_a_bundle_opens(gpu: Machine, folder: Path, store: Path) -> None:
    bundle = Bundle(folder)
    backend = Tensorrt(cache=store)
    shapes = set()
    for entry in bundle.manifest.graphs:
        loaded = backend.open(bundle, entry)
        assert loaded.entry is entry
        assert loaded.placement["TensorRT"] > 7
        shapes.add(entry.shape)
    assert shapes == {"latency", "throughput", "step", "summary", "head"}


def test_an_engine_is_built_once(gpu: Machine, folder: Path, store: Path) -> None:
    said = list[str]()
    first = opened(folder, store, progress=said.append)
    assert said == ["a_t.latency.fp32.onnx: Building engine"]
    assert origin(first) == "built"
    assert f"kept as {store}" in " ".join(first.notes)
    again = opened(folder, store)
    assert origin(again).startswith(str(store))
    assert "loaded in " in again.notes[0]
    assert gpu.trt.builds == 1
    assert len(said) == 1


def test_the_timing_cache_goes_on(gpu: Machine, folder: Path, store: Path) -> None:
    bundle = Bundle(folder)
    backend = Tensorrt(cache=store)
    for pattern in ("a", "t"):
        backend.open(bundle, entry_of(bundle, pattern))
    assert gpu.trt.timing_caches == [b"", b"timing"]
    (timing,) = (store / "engines").glob("*.timing")
    flip(timing)
    loaded = backend.open(bundle, entry_of(bundle, "a_t"))
    assert gpu.trt.timing_caches[-1] == b""
    assert any("its hash does not fit; timing anew" in note for note in loaded.notes)
    TensorrtRtx(cache=store).open(bundle, entry_of(bundle))
    assert len(list((store / "engines").glob("*.timing"))) == 1, "RTX keeps none"


@pytest.mark.parametrize("change", ["version", "gpu", "capability", "graph", "profile", "tf32"])
def test_what_an_engine_depends_on(gpu: Machine, folder: Path, store: Path, change: str) -> None:
    options = dict[str, Any]()
    opened(folder, store)
    if change == "version":
        gpu.trt.__version__ = "10.13.3"
    elif change == "gpu":
        gpu.cuda.gpu_name = b"Orin Nano"
    elif change == "capability":
        gpu.cuda.capability = (8, 9)
    elif change == "tf32":
        options["tf32"] = True
    elif change == "profile":
        edit(folder, lambda m: m["modalities"]["a"].__setitem__("verified_length", 777))
    else:
        path = folder / "a_t.latency.fp32.onnx"
        content = path.read_bytes() + b"\xa2\x06\x01x"  # an unknown field, which readers skip
        put(folder, path.name, content)
    assert origin(opened(folder, store, **options)) == "built"
    assert gpu.trt.builds == 2
    assert len(list((store / "engines").glob("*.engine"))) == 2


def test_damaged_files_are_built_anew_and_logs_told(
    gpu: Machine, folder: Path, store: Path
) -> None:
    opened(folder, store)
    (path,) = (store / "engines").glob("*.engine")
    flip(path)
    notes = opened(folder, store).notes
    assert any("its hash does not fit; building it anew" in note for note in notes)
    assert origin(opened(folder, store)) != "built"
    # An error in the log is an error, a warning a note.
    gpu.trt.says = [("WARNING", "built on another\n model of GPU")]
    assert "built on another model of GPU" in opened(folder, store).notes
    gpu.trt.says = [("ERROR", "cuBLAS is missing")]
    with pytest.raises(EngineError, match="does not load the engine: cuBLAS is missing"):
        opened(folder, store)


def test_a_file_that_is_gone_is_built_again(gpu: Machine, folder: Path, store: Path) -> None:
    """Another process may remove it at any time, also one that this process has loaded."""
    bundle = Bundle(folder)
    entry, backend = entry_of(bundle), Tensorrt(cache=store)
    (case,) = [case for case in bundle.golden() if case.pattern == entry.pattern][:1]
    loaded = backend.open(bundle, entry)
    for path in (store / "engines").iterdir():
        path.unlink()
    (logits,) = loaded.run({m.value: x for m, x in case.features.items()})
    np.testing.assert_allclose(logits, case.logits, atol=1e-4)
    assert origin(backend.open(bundle, entry)) == "built"
    assert origin(backend.open(bundle, entry)) != "built"


def test_an_engine_that_no_longer_loads_is_built_anew(
    gpu: Machine, folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an update of the driver, which the key does not have."""
    opened(folder, store)
    refused = list[bytes]()

    def once(runtime: Any, content: bytes) -> Any:
        if refused:
            return load_engine(runtime, content)
        refused.append(content)
        raise EngineError("another driver")

    monkeypatch.setattr(tensorrt, "load_engine", once)
    assert "is not used: another driver" in opened(folder, store).notes[0]
    assert gpu.trt.builds == 2


@pytest.mark.parametrize(
    ("refuses", "words"),
    [
        ("build_serialized_network", "TensorRT cannot build the graph: no kernel for this"),
        ("deserialize_cuda_engine", "does not load the engine: the engine's magic tag does not"),
        ("create_execution_context", "no memory to run the engine"),
        ("execute_async_v3", "TensorRT refuses execute_async_v3"),
    ],
)
def test_what_is_refused(gpu: Machine, folder: Path, store: Path, refuses: str, words: str) -> None:
    gpu.trt.refuses = refuses
    with pytest.raises(EngineError) as caught:
        opened(folder, store)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((store / "engines").glob("*.engine")), "an engine that does not run is not kept"


def test_a_cache_that_cannot_be_written(gpu: Machine, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    loaded = opened(folder, tmp_path / "file")
    assert "not kept: cannot write" in " ".join(loaded.notes)
    case = next(case for case in Bundle(folder).golden() if str(case.pattern) == "a_t")
    (logits,) = loaded.run({m.value: x for m, x in case.features.items()})
    np.testing.assert_allclose(logits, case.logits, atol=1e-4)


def test_a_graph_that_cannot_be_recorded_is_noted(gpu: Machine, folder: Path, store: Path) -> None:
    gpu.trt.capture = "False"
    assert any("runs without CUDA graphs" in note for note in opened(folder, store).notes)
    assert len(opened(folder, store, cuda_graphs=False).notes) == 1


def _ship(gpu: Machine, folder: Path, flavour: str, **changes: Any) -> GraphEntry:
    """Put an engine of a graph into a bundle."""
    bundle = Bundle(folder)
    entry = entry_of(bundle)
    profile = profile_of(entry, bundle.manifest.modalities)
    built = build_engine(bundle.graph(entry), profile, flavour=flavour)
    (folder / "x.engine").write_bytes(built.content)
    shipped = {
        "engine": flavour, "version": built.version, "targets": ["SM86", "SM87"],
        "graph": entry.file, "graph_sha256": entry.sha256, "file": "x.engine",
        "sha256": hashlib.sha256(built.content).hexdigest(), "bytes": len(built.content),
        "profile": {name: {"minimum": s.minimum, "optimum": s.optimum, "maximum": s.maximum}
                    for name, s in profile.items()},
    }  # fmt: skip
    edit(folder, lambda m: m["engines"].append({**shipped, **changes}))
    return entry


@pytest.mark.parametrize("targets", [["SM86", "SM87"], []])
def test_shipped_engines_run(gpu: Machine, folder: Path, store: Path, targets: list[str]) -> None:
    entry = _ship(gpu, folder, "tensorrt-rtx", targets=targets)
    loaded = TensorrtRtx(cache=store).open(Bundle(folder), entry)
    assert origin(loaded) == "x.engine"
    assert gpu.rtx.builds == 1, "that of the bundle"
    assert not store.exists()


@pytest.mark.parametrize(
    "changes",
    [{"version": "1.6.0"}, {"targets": ["SM89"]}, {"graph_sha256": "0" * 64},
     {"engine": "tensorrt"}, {"graph": "a.latency.fp32.scan.onnx"}],
    ids=["version", "target", "hash", "flavour", "graph"],
)  # fmt: skip
def test_unfit_engines(gpu: Machine, folder: Path, store: Path, changes: dict[str, Any]) -> None:
    entry = _ship(gpu, folder, "tensorrt-rtx", **changes)
    loaded = TensorrtRtx(cache=store).open(Bundle(folder), entry)
    assert origin(loaded) == "built"
    assert len(loaded.notes) == 1


def test_shipped_engines_damaged_or_mislabelled(gpu: Machine, folder: Path, store: Path) -> None:
    entry = _ship(gpu, folder, "tensorrt-rtx")
    flip(folder / "x.engine")
    loaded = TensorrtRtx(cache=store).open(Bundle(folder), entry)
    assert "x.engine of the bundle is not used" in loaded.notes[0]
    assert origin(loaded) == "built"
    other = entry_of(Bundle(folder), "a")
    profile = profile_of(other, Bundle(folder).manifest.modalities)
    content = build_engine(Bundle(folder).graph(other), profile, flavour="tensorrt-rtx").content
    put(folder, "x.engine", content)
    loaded = TensorrtRtx(cache=store).open(Bundle(folder), entry)
    assert "the engine is of another graph" in loaded.notes[0]


def test_tensorrt_that_does_not_start(gpu: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(logger: Any) -> None:
        raise TypeError("factory function returned nullptr")

    monkeypatch.setattr(gpu.trt, "Runtime", fail)
    with pytest.raises(BackendUnavailable, match=r"tensorrt 10\.3\.0 does not start here"):
        Tensorrt()


def test_real_tensorrt_rtx_builds_but_says_that_it_cannot_load(
    gpu: Machine, folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its engines load on its GPUs only; how a refusal sounds is real."""
    if REAL is None:
        pytest.skip("TensorRT-RTX is not installed")
    recorded = RecordingModule(REAL)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", recorded)
    bundle = Bundle(folder)
    with pytest.raises(EngineError) as caught:
        TensorrtRtx(cache=store).open(bundle, entry_of(bundle))
    assert "TensorRT does not load the engine" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ("Runtime", "deserialize_cuda_engine") in recorded.used
    assert recorded.outside == set()


@pytest.mark.parametrize("name", ["Tensorrt", "TensorrtRtx"])
def test_without_a_gpu_one_line(name: str) -> None:
    script = (
        "import time\n"
        f"from ifmmin.runtime.backends.tensorrt import {name} as kind\n"
        "from ifmmin.runtime.cli.app import guarded\n"
        "code = guarded(lambda: kind() and 0)\n"
        "print(time.process_time()); sys.exit(code)"
    )
    ran = run_python(script)
    if ran.code == 0:
        pytest.skip("there is a GPU here")
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran
    assert float(ran.out) < 2


@pytest.mark.gpu
@pytest.mark.parametrize("backend", [Tensorrt, TensorrtRtx])
def test_a_real_gpu(folder: Path, store: Path, backend: type[Tensorrt]) -> None:
    """All precisions of float, all shapes of utterances, plain and recorded, and from the cache."""
    try:
        made = backend(cache=store)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    bundle = Bundle(folder)
    manifest: Manifest = bundle.manifest
    for entry in manifest.graphs:
        loaded = made.open(bundle, entry)
        if entry.shape != "latency":
            continue
        tolerance = 1e-3 if entry.precision == "fp32" else 0.1
        for case in bundle.golden():
            if case.pattern == entry.pattern:
                for _ in range(4):
                    (logits,) = loaded.run({m.value: x for m, x in case.features.items()})
                    np.testing.assert_allclose(logits, case.logits, atol=tolerance)
    started = time.perf_counter()
    again = backend(cache=store).open(bundle, entry_of(bundle))
    assert origin(again).startswith(str(store))
    assert time.perf_counter() - started < 30
