"""A machine with a GPU, TensorRT and cuda-python, all of them made up."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import FakeEngine, FakeTensorrt

from ifmmin.runtime.backends.cuda import Cuda
from ifmmin.runtime.backends.tensorrt import load_engine, make_runtime
from ifmmin.runtime.backends.tensorrt_build import build_engine
from ifmmin.runtime.backends.tensorrt_engine import EngineRunner


class Machine:
    """The fakes, in the places of the real modules."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda | None = None) -> None:
        self._monkeypatch = monkeypatch
        self.cuda = cuda or FakeCuda()
        self.trt = FakeTensorrt(self.cuda)
        self.rtx = FakeTensorrt(self.cuda, "1.7.1")
        for name, module in {
            "cuda.bindings.runtime": self.cuda, "tensorrt": self.trt, "tensorrt_rtx": self.rtx
        }.items():  # fmt: skip
            monkeypatch.setitem(sys.modules, name, module)

    def engine(self, graph: bytes, profile: Any) -> FakeEngine:
        """A loaded engine of a graph."""
        built = build_engine(graph, profile, flavour="tensorrt")
        runtime = make_runtime(self.trt, "tensorrt")
        engine: FakeEngine = load_engine(runtime, built.content)[0]
        return engine

    def runner(self, graph: bytes, profile: Any, **options: Any) -> EngineRunner:
        """A runner of a graph."""
        engine = self.engine(graph, profile)
        names = [*engine.inputs, *engine.outputs]
        return EngineRunner(self.trt, Cuda(), engine, names, **options)


def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """To be made a fixture; nothing may be queued or held when the test is over."""
    made = Machine(monkeypatch)
    yield made
    assert made.cuda.pending == 0, "work is queued that nobody waits for"
    gc.collect()
    assert made.cuda.held == 0, "memory, streams or graphs are not given back"
    made.cuda.freed.clear()  # the module stays with its logger, for which there is no end
