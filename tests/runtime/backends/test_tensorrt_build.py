"""Engines of every form of graph, built without a GPU; what cannot be built is said clearly.

Native TensorRT is built with as TensorRT-RTX is, by names that every version has.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from fake_tensorrt import LSTM, Profile, small_graph
from recording_module import RTX_ONLY, RecordingModule

from ifmmin.runtime.backends import tensorrt_build
from ifmmin.runtime.backends.tensorrt_api import Messages
from ifmmin.runtime.backends.tensorrt_build import (
    BuildOptions,
    BuiltEngine,
    build_engine,
    make_config,
    monitor_of,
)
from ifmmin.runtime.bundle import Bundle, ProfileSpec
from ifmmin.runtime.errors import BackendUnavailable, EngineError, IfmminError, InputError

trt = pytest.importorskip(
    "tensorrt_rtx",
    reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu12",
    exc_type=ImportError,
)
TARGETS = ("SM86", "SM89", "SM120")
HALF, BATCHES, TEXT = "a.latency.fp16", "a.throughput.fp16", "t.latency.fp32"
Graph = Callable[[str], tuple[bytes, Profile]]


@pytest.fixture
def graph(make_bundle: Any) -> Graph:
    return lambda name: small_graph(make_bundle, name)


@pytest.fixture
def lstm(graph: Graph) -> tuple[bytes, Profile]:
    return graph(LSTM)


def build(graph: tuple[bytes, Profile], **options: Any) -> BuiltEngine:
    return build_engine(*graph, **{"flavour": "tensorrt-rtx", **options})


def refusal(kind: type[IfmminError], graph: bytes, profile: Profile, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        build((graph, profile), **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "CUDA driver" not in message, "noise of a machine without a GPU"
    return message


@pytest.mark.parametrize(
    ("name", "targets", "loops"),
    [(LSTM, (), 2), (HALF, TARGETS, 3), (TEXT, TARGETS, 0), ("a.step.fp32", (), 2),
     ("t.step.fp32", (), 0), ("a.summary.fp32", (), 0), ("a_t.head.fp16", (), 0)],
)  # fmt: skip
def test_what_a_build_tells(graph: Graph, name: str, targets: tuple[str, ...], loops: int) -> None:
    """Graphs of utterances are built in every form where they are exported."""
    built = build(graph(name), targets=targets)
    assert len(built.content) > 10_000
    assert (built.flavour, built.version) == ("tensorrt-rtx", trt.__version__)
    assert built.targets == targets
    assert built.layers == sum(built.layer_types.values())
    assert built.layer_types.get("RECURRENCE", 0) == loops
    assert built.timing_cache is None
    assert built.build_seconds > 0
    assert all("Int64 binding" in line for line in built.warnings)


def test_the_same_build_gives_the_same_size(graph: Graph) -> None:
    """Not the same bytes: TensorRT writes some records in the order of their addresses."""
    first, again = (build(graph(BATCHES), targets=TARGETS) for _ in range(2))
    assert len(first.content) == len(again.content)
    assert first.layer_types == again.layer_types
    assert len(build(graph(HALF), targets=TARGETS).content) != len(first.content)


def changed(profile: Profile, **sizes: tuple[int, int, int]) -> Profile:
    """The same with another time."""
    return {
        key: ProfileSpec(
            minimum=(sizes[key][0], *spec.minimum[1:]),
            optimum=(sizes[key][1], *spec.optimum[1:]),
            maximum=(sizes[key][2], *spec.maximum[1:]),
        )
        for key, spec in profile.items()
    }


def test_a_minimum_above_the_maximum(lstm: tuple[bytes, Profile], graph: Graph) -> None:
    message = refusal(InputError, lstm[0], changed(lstm[1], a=(50, 25, 20)))
    assert "minimum, optimum and maximum (50, 25, 20)" in message
    message = refusal(EngineError, *graph("a.throughput.fp32"), workspace_bytes=1 << 10)
    assert "raise workspace_bytes, or lower the largest batch" in message


def test_fewer_tokens_than_a_kernel(graph: Graph) -> None:
    """For 1 token TensorRT warns and goes on. For 4, which leave a kernel of 5 nothing, it does not
    even warn, so a minimum may only come from a manifest: see test_engine_profile."""
    content, profile = graph(TEXT)
    message = refusal(EngineError, content, changed(profile, t=(1, 25, 200)))
    assert "no meaning for a size of the profile" in message
    assert "Conv: spatial dimension" in message
    assert profile["t"].minimum == (5, 11)


@pytest.mark.parametrize(
    ("length", "words"), [(None, "file is not an ONNX graph"), (300, "file is not an ONNX graph"),
                          (0, "the graph has no outputs")],
)  # fmt: skip
def test_an_unreadable_file(lstm: tuple[bytes, Profile], length: int | None, words: str) -> None:
    assert words in refusal(EngineError, b"garbage" if length is None else lstm[0][:length], {})


def test_an_operator_of_onnx_runtime_is_named(make_bundle: Any, graph: Graph) -> None:
    bundle = Bundle(make_bundle(("a_t",), ("int8", "fp32")))
    (entry,) = [e for e in bundle.manifest.graphs if e.key[::2] == ("latency", "int8")]
    message = refusal(EngineError, bundle.graph(entry), {})
    assert "(DynamicQuantizeLSTM): " in message
    assert "Plugin not found" in message
    message = refusal(EngineError, *graph(LSTM), targets=("SM75",))
    assert "Turing (SM75): FP32 GEMM is not supported" in message
    assert build(graph(HALF), targets=("SM75",)).content


@pytest.mark.parametrize("name", [LSTM, TEXT])
def test_a_failed_build_leaves_nothing_behind(graph: Graph, name: str) -> None:
    """TensorRT-RTX itself would give the next engine another size."""
    before = build(graph(name), targets=("SM86",))
    refusal(EngineError, *graph(LSTM), targets=("SM75",))
    assert len(build(graph(name), targets=("SM86",)).content) == len(before.content)


@pytest.mark.parametrize("target", ["SM87", "sm86", "CURRENT", "NONE"])
def test_an_unknown_target(lstm: tuple[bytes, Profile], target: str) -> None:
    message = refusal(InputError, *lstm, targets=("SM86", target))
    assert f"unknown target {target!r}" in message
    assert all(known in message for known in TARGETS)
    assert "CURRENT," not in message


def test_messages_of_every_build_arrive(graph: Graph) -> None:
    """TensorRT keeps the first logger of a process; each failure must still have its own reason."""
    lstm, (content, profile) = graph(LSTM), graph(TEXT)
    assert "Turing" in refusal(EngineError, *lstm, targets=("SM75",))
    text = refusal(EngineError, content, changed(profile, t=(1, 25, 200)))
    assert "Conv: " in text
    assert "Turing" not in text
    assert build(lstm).warnings == ()
    assert "Turing" in refusal(EngineError, *lstm, targets=("SM75",))


@pytest.fixture
def no_logger() -> Iterator[None]:
    """No object of TensorRT lives before and after; as long as one does, so does its logger."""
    gc.collect()
    yield
    gc.collect()


@pytest.mark.usefixtures("no_logger")
def test_messages_elsewhere(lstm: tuple[bytes, Profile], monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, text: str) -> None:
            pass

    silent = Silent()
    monkeypatch.setattr(tensorrt_build, "logger_of", lambda _trt: silent)
    assert "build engines in a process of their own" in refusal(EngineError, *lstm)


def test_progress_names_phases_and_its_errors_stop_the_build(lstm: tuple[bytes, Profile]) -> None:
    phases: list[str] = []
    build(lstm, progress=phases.append)
    assert "Building engine" in phases

    def fail(phase: str) -> None:
        raise ValueError(phase)

    with pytest.raises(ValueError, match="Building engine"):
        build(lstm, progress=fail)
    assert build(lstm).content


def test_an_interrupted_build_is_not_carried_on() -> None:
    messages = Messages()
    monitor = monitor_of(trt, messages, None)
    assert monitor.step_complete("Timing tactics", 1)
    messages.interrupt = KeyboardInterrupt()
    assert not monitor.step_complete("Timing tactics", 2)


class NativeLike(RecordingModule):
    """TensorRT-RTX under the name of native TensorRT, of which it is the younger twin."""

    __version__ = "10.3.0"

    def __init__(self) -> None:
        super().__init__(trt)


def test_options_of_another(lstm: tuple[bytes, Profile], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no timing cache" in refusal(InputError, *lstm, timing_cache=b"")
    monkeypatch.setitem(sys.modules, "tensorrt", NativeLike())
    message = refusal(InputError, *lstm, flavour="tensorrt", targets=("SM86",))
    assert "builds for the GPU that it runs on; leave the targets SM86 out" in message


# The cache of the native flavour is there in RTX, and does nothing.
@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_native_tensorrt_takes_the_same_path(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    native = NativeLike()
    monkeypatch.setitem(sys.modules, "tensorrt", native)
    batches = graph("a.throughput.fp32")
    first = build(batches, flavour="tensorrt")
    assert (first.flavour, first.version, first.targets) == ("tensorrt", "10.3.0", ())
    assert len(first.content) == len(build(batches).content)
    assert first.timing_cache
    assert build(batches, flavour="tensorrt", timing_cache=first.timing_cache, tf32=True).content
    caches = [values for name, values in native.calls if name == "create_timing_cache"]
    assert caches == [(b"",), (first.timing_cache,)]
    flags = [(name, *values) for name, values in native.calls if name.endswith("_flag")]
    tf32 = trt.BuilderFlag.TF32
    assert flags == [("clear_flag", tf32), ("set_flag", tf32)]
    assert "not an ONNX graph" in refusal(EngineError, b"x", {}, flavour="tensorrt")
    assert native.used
    assert native.outside == set(), "not in every version from 10.3 on"


def test_a_timing_cache_of_another_device_is_left() -> None:
    builder, messages = MagicMock(), Messages()
    config = builder.create_builder_config.return_value
    config.set_timing_cache.side_effect = [False, True]
    options = BuildOptions("tensorrt", (), b"of another device", 1, False)
    make_config(MagicMock(), builder, options, messages)
    given = [call.args for call in config.create_timing_cache.call_args_list]
    assert given == [(b"of another device",), (b"",)]
    assert "starting anew" in messages.warnings[0]


def test_rtx_names_are_seen(lstm: tuple[bytes, Profile], monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test before: the same recorder, with targets."""
    recorded = RecordingModule(trt)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", recorded)
    build(lstm, targets=TARGETS)
    only = {(kind, name) for kind, names in RTX_ONLY.items() for name in names}
    assert recorded.outside
    assert recorded.outside <= only


def test_without_a_gpu(lstm: tuple[bytes, Profile], monkeypatch: pytest.MonkeyPatch) -> None:
    """What native TensorRT does there: the bindings turn its null pointer into a TypeError."""

    def no_builder(logger: Any) -> None:
        logger.log(SimpleNamespace(name="ERROR"), "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    absent: Any = ModuleType("tensorrt")
    absent.__version__, absent.Builder, absent.ILogger = "10.3.0", no_builder, object
    monkeypatch.setitem(sys.modules, "tensorrt", absent)
    message = refusal(BackendUnavailable, *lstm, flavour="tensorrt")
    assert "does not start here (CUDA initialization failure with error: 35)" in message
