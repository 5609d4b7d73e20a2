"""Native TensorRT is built with as TensorRT-RTX is, by names that every version has."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from recording_module import RTX_ONLY, RecordingModule
from small_engines import GRAPHS, TARGETS, build, refusal
from small_graphs import dynamic_quantised_graph

from ifmmin.runtime.backends.tensorrt_api import Messages
from ifmmin.runtime.backends.tensorrt_build import BuildOptions, build_engine, make_config
from ifmmin.runtime.errors import BackendUnavailable, EngineError, InputError

trt = pytest.importorskip(
    "tensorrt_rtx",
    reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu12",
    exc_type=ImportError,
)


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
