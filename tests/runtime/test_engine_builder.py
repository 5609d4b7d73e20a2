"""Engines of every form of graph, built without a GPU; what cannot be built is said clearly.

Native TensorRT is built with as TensorRT-RTX is, by names that every version has.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import onnxruntime
import pytest
from recording_module import RTX_ONLY, RecordingModule
from small_engines import GRAPHS, TARGETS, Profile, build, refusal
from small_graphs import dynamic_quantised_graph, lstm_graph, quantised_graph

from ifmmin.runtime.backends import tensorrt_build
from ifmmin.runtime.backends.tensorrt_api import Messages
from ifmmin.runtime.backends.tensorrt_build import (
    BuildOptions,
    build_engine,
    make_config,
    monitor_of,
)
from ifmmin.runtime.bundle import ProfileSpec
from ifmmin.runtime.errors import BackendUnavailable, EngineError, InputError

trt = pytest.importorskip(
    "tensorrt_rtx",
    reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu12",
    exc_type=ImportError,
)


@pytest.mark.parametrize(
    ("name", "targets"), [*((name, ()) for name in GRAPHS), ("lstm", TARGETS), ("text", TARGETS)]
)
def test_every_form_builds(name: str, targets: tuple[str, ...]) -> None:
    built = build(name, targets=targets)
    assert len(built.content) > 10_000
    assert (built.flavour, built.version) == ("tensorrt-rtx", trt.__version__)
    assert built.targets == targets
    assert built.layers == sum(built.layer_types.values())
    assert built.timing_cache is None
    assert built.build_seconds > 0
    loops = {"scan": 3, "masked": 3, "lstm": 2, "step": 2}
    assert built.layer_types.get("RECURRENCE", 0) == loops.get(name.removesuffix(" fp16"), 0)
    assert all("Int64 binding" in line for line in built.warnings)


def test_the_forms_of_one_lstm_agree() -> None:
    """Else the graphs of these tests would be of no worth."""
    rng = np.random.default_rng(1)
    long, short = (rng.standard_normal((n, 5), dtype=np.float32) for n in (9, 4))
    answers: dict[str, Any] = {}
    for name in ("lstm", "scan"):
        session = onnxruntime.InferenceSession(GRAPHS[name][0])
        answers[name] = [session.run(None, {"a": x})[0] for x in (long, short)]
    padded = np.stack([long, np.vstack([short, np.full((5, 5), 9, np.float32)])])
    masked = onnxruntime.InferenceSession(GRAPHS["masked"][0])
    rows: Any = masked.run(None, {"a": padded, "a_lengths": np.array([9, 4])})[0]
    np.testing.assert_allclose(answers["scan"], answers["lstm"], atol=1e-6)
    np.testing.assert_allclose(rows, answers["lstm"], atol=1e-6)


def test_the_same_build_gives_the_same_size() -> None:
    """Not the same bytes: TensorRT writes some records in the order of their addresses."""
    first, again = (build("masked fp16", targets=TARGETS) for _ in range(2))
    assert len(first.content) == len(again.content)
    assert first.layer_types == again.layer_types
    assert len(build("masked", targets=TARGETS).content) != len(first.content)


def changed(name: str, **sizes: tuple[int, int, int]) -> Profile:
    """The profile of a graph with another time."""
    return {
        key: ProfileSpec(
            minimum=(sizes[key][0], *spec.minimum[1:]),
            optimum=(sizes[key][1], *spec.optimum[1:]),
            maximum=(sizes[key][2], *spec.maximum[1:]),
        )
        for key, spec in GRAPHS[name][1].items()
    }


def test_a_minimum_above_the_maximum() -> None:
    message = refusal(InputError, GRAPHS["lstm"][0], changed("lstm", a=(50, 25, 20)))
    assert "minimum, optimum and maximum (50, 25, 20)" in message


def test_fewer_tokens_than_a_kernel() -> None:
    """For 1 token TensorRT warns and goes on. For 4, which leave a kernel of 5 nothing, it does not
    even warn, so a minimum may only come from a manifest: see test_engine_profile."""
    message = refusal(EngineError, GRAPHS["text"][0], changed("text", t=(1, 25, 200)))
    assert "no meaning for a size of the profile" in message
    assert "conv3: spatial dimension" in message
    assert GRAPHS["text"][1]["t"].minimum == (5, 11)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (quantised_graph(quantised_bias=True), ["node 3 'bias_dq' (DequantizeLinear)", "Int32"]),
        (dynamic_quantised_graph(), ["node 1 'rnn' (DynamicQuantizeLSTM)", "Plugin not found"]),
        (b"garbage", ["the file is not an ONNX graph"]),
        (lstm_graph()[:300], ["the file is not an ONNX graph"]),
        (b"", ["the graph has no outputs"]),
    ],
    ids=["int32 bias", "operator of ONNX Runtime", "garbage", "cut off", "empty"],
)
def test_a_graph_that_cannot_be_read(graph: bytes, words: list[str]) -> None:
    message = refusal(EngineError, graph, {})
    assert all(word in message for word in words), message


def test_a_target_that_cannot_compute_it() -> None:
    graph, profile = GRAPHS["lstm"]
    message = refusal(EngineError, graph, profile, targets=("SM75",))
    assert "Turing (SM75): FP32 GEMM is not supported" in message
    assert build("lstm fp16", targets=("SM75",)).content


@pytest.mark.parametrize("name", ["lstm", "text"])
def test_a_failed_build_leaves_nothing_behind(name: str) -> None:
    """TensorRT-RTX itself would give the next engine another size."""
    before = build(name, targets=("SM86",))
    refusal(EngineError, *GRAPHS["lstm"], targets=("SM75",))
    assert len(build(name, targets=("SM86",)).content) == len(before.content)


def test_too_little_workspace() -> None:
    message = refusal(EngineError, *GRAPHS["masked"], workspace_bytes=1 << 10)
    assert "raise workspace_bytes, or lower the largest batch" in message


@pytest.mark.parametrize("target", ["SM87", "sm86", "CURRENT", "NONE"])
def test_an_unknown_target(target: str) -> None:
    message = refusal(InputError, *GRAPHS["lstm"], targets=("SM86", target))
    assert f"unknown target {target!r}" in message
    assert all(known in message for known in TARGETS)
    assert "CURRENT," not in message


def test_messages_of_every_build_arrive() -> None:
    """TensorRT keeps the first logger of a process; each failure must still have its own reason."""
    graph, profile = GRAPHS["lstm"]
    assert "Turing" in refusal(EngineError, graph, profile, targets=("SM75",))
    text = refusal(EngineError, GRAPHS["text"][0], changed("text", t=(1, 25, 200)))
    assert "conv3" in text
    assert "Turing" not in text
    assert build("lstm").warnings == ()
    assert "Turing" in refusal(EngineError, graph, profile, targets=("SM75",))


@pytest.fixture
def no_logger() -> Iterator[None]:
    """No object of TensorRT lives before and after; as long as one does, so does its logger."""
    gc.collect()
    yield
    gc.collect()


@pytest.mark.usefixtures("no_logger")
def test_a_build_whose_messages_go_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, text: str) -> None:
            pass

    silent = Silent()
    monkeypatch.setattr(tensorrt_build, "logger_of", lambda _trt: silent)
    assert "build engines in a process of their own" in refusal(EngineError, *GRAPHS["lstm"])


def test_progress_names_phases_and_its_errors_stop_the_build() -> None:
    phases: list[str] = []
    build("lstm", progress=phases.append)
    assert "Building engine" in phases

    def fail(phase: str) -> None:
        raise ValueError(phase)

    with pytest.raises(ValueError, match="Building engine"):
        build("lstm", progress=fail)
    with pytest.raises(KeyboardInterrupt):
        build("lstm", progress=lambda _phase: signal.raise_signal(signal.SIGINT))
    assert build("lstm").content


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


def test_options_of_the_other_flavour(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no timing cache" in refusal(InputError, *GRAPHS["lstm"], timing_cache=b"")
    monkeypatch.setitem(sys.modules, "tensorrt", NativeLike())
    message = refusal(InputError, *GRAPHS["lstm"], flavour="tensorrt", targets=("SM86",))
    assert "builds for the GPU that it runs on; leave the targets SM86 out" in message


# The cache of the native flavour is there in RTX, and does nothing.
@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_the_native_flavour_takes_the_same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    native = NativeLike()
    monkeypatch.setitem(sys.modules, "tensorrt", native)
    first = build("masked", flavour="tensorrt")
    assert (first.flavour, first.version, first.targets) == ("tensorrt", "10.3.0", ())
    assert len(first.content) == len(build("masked").content)
    assert first.timing_cache
    assert build("masked", flavour="tensorrt", timing_cache=first.timing_cache, tf32=True).content
    caches = [values for name, values in native.calls if name == "create_timing_cache"]
    assert caches == [(b"",), (first.timing_cache,)]
    flags = [(name, *values) for name, values in native.calls if name.endswith("_flag")]
    tf32 = trt.BuilderFlag.TF32
    assert flags == [("clear_flag", tf32), ("set_flag", tf32)]
    with pytest.raises(EngineError, match="DynamicQuantizeLSTM"):
        build_engine(dynamic_quantised_graph(), {}, flavour="tensorrt")
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


def test_what_only_rtx_has_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test before: the same recorder, with targets."""
    recorded = RecordingModule(trt)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", recorded)
    build("lstm", targets=TARGETS)
    only = {(kind, name) for kind, names in RTX_ONLY.items() for name in names}
    assert recorded.outside
    assert recorded.outside <= only


def test_a_device_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What native TensorRT does there: the bindings turn its null pointer into a TypeError."""

    def no_builder(logger: Any) -> None:
        logger.log(SimpleNamespace(name="ERROR"), "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    absent: Any = ModuleType("tensorrt")
    absent.__version__, absent.Builder, absent.ILogger = "10.3.0", no_builder, object
    monkeypatch.setitem(sys.modules, "tensorrt", absent)
    message = refusal(BackendUnavailable, *GRAPHS["lstm"], flavour="tensorrt")
    assert "does not start here (CUDA initialization failure with error: 35)" in message
