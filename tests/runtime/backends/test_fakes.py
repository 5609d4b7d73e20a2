"""The made-up GPU and TensorRT find misuse, have the calls of every version, and can lie."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda, Misuse
from fake_tensorrt import FakeContext, FakeEngine, Machine
from recording_module import COMMON

from ifmmin.runtime.backends.cuda import Cuda

NAMES = json.loads((Path(__file__).parents[2] / "fakes" / "cuda_names.json").read_text())


class _Driven:
    """A context of the LSTM's engine, driven call by call."""

    def __init__(self, gpu: Machine, *, managed: bool = False) -> None:
        self.cuda, self.fake = Cuda(), gpu.cuda
        self.stream = self.cuda.stream()
        self.memory = {"a": self.cuda.allocate(200 * 5 * 4), "logits": self.cuda.allocate(16)}
        self.host = self.cuda.allocate_host(200 * 5 * 4)
        self.context = FakeContext(gpu.engine(*gpu.graph()), managed=managed)

    def do(self, calls: str) -> None:
        for call in calls.split():
            getattr(self, call)()

    def shape(self, length: int = 9) -> None:
        self.context.set_input_shape("a", (length, 5))

    def ready(self, length: int = 9) -> None:
        self.shape(length)
        for name, memory in self.memory.items():
            self.context.set_tensor_address(name, memory.handle)

    def run(self) -> None:
        self.context.execute_async_v3(int(self.stream.handle))

    def wait(self) -> None:
        self.cuda.synchronise(self.stream)

    def free(self) -> None:
        self.memory["logits"].free()

    def shrink(self) -> None:
        self.fake.device[self.memory["logits"].handle] = np.zeros(8, np.uint8)

    def lend(self) -> None:
        """Memory between layers, too little of it."""
        self.context.set_device_memory(self.memory["a"].handle, 16)

    def ask(self) -> None:
        """How much memory it needs."""
        self.context.update_device_memory_size_for_shapes()

    def record(self) -> Any:
        """A graph of a run, after one that was not recorded."""
        self.ready()
        self.run()
        self.wait()
        return self.cuda.record(self.stream, self.run)

    def launch_at_another_shape(self) -> None:
        graph = self.record()
        self.ready(8)
        self.cuda.launch(graph, self.stream)
        self.wait()

    def speak(self, value: float) -> None:
        self.host.bytes[:].view(np.float32)[:] = value
        self.cuda.copy_in(self.memory["a"], self.host, self.host.bytes.size, self.stream)
        self.wait()

    def answer(self) -> Any:
        self.wait()
        return self.fake.device[self.memory["logits"].handle].view(np.float32).copy()


MISUSES = {
    "set_input_shape is missing": "run", "set_tensor_address is missing": "shape run",
    "is used, which is not allocated": "ready free run wait",
    "16 bytes of a buffer of 8": "ready shrink run wait",
    "a recorded context has taken other shapes": "launch_at_another_shape",
    "the memory of a context is TensorRT's": "lend",
}  # fmt: skip
MANAGED = {
    "a context has no memory for its shapes": "ready run", "before the shapes of": "ask",
    "has 16 bytes and needs": "ready ask lend",
}  # fmt: skip
"""The same of a context that has no memory of its own."""


@pytest.mark.parametrize("words", [*MISUSES, *MANAGED])
def test_misuse_of_a_context_is_seen(gpu: Machine, words: str) -> None:
    driven = _Driven(gpu, managed=words in MANAGED)
    with pytest.raises(Misuse, match=words):
        driven.do((MISUSES | MANAGED)[words])
    for handle in gpu.cuda.handles.values():
        handle.queue.clear()
    with pytest.raises(Misuse, match="outside of the profile"):
        driven.shape(201)


@pytest.mark.parametrize("lie", ["empty", "frozen", "well"])
def test_a_lie_would_give_out_an_answer_of_before(gpu: Machine, lie: str) -> None:
    gpu.trt.capture, driven = lie, _Driven(gpu)
    driven.speak(1.0)
    graph = driven.record()
    before = driven.answer()
    driven.speak(-1.0)
    driven.cuda.launch(graph, driven.stream)
    assert np.array_equal(driven.answer(), before) == (lie != "well")


def test_an_answer_that_is_not_waited_for_is_wrong(gpu: Machine) -> None:
    driven = _Driven(gpu)
    driven.speak(1.0)
    driven.ready()
    driven.run()
    assert np.isnan(gpu.cuda.device[driven.memory["logits"].handle].view(np.float32)).all()
    assert gpu.cuda.pending == 1
    assert np.isfinite(driven.answer()).all()


def test_misuse_of_cuda_is_seen(gpu: Machine) -> None:
    cuda = Cuda()
    stream, small, host = cuda.stream(), cuda.allocate(4), cuda.allocate_host(64)
    with pytest.raises(Misuse, match="8 bytes of a buffer of 4"):
        cuda.copy_in(small, host, 8, stream)
    cuda.copy_in(small, host, 4, stream)
    with pytest.raises(Misuse, match="freed while work is queued"):
        gpu.cuda.cudaFree(small.handle)
    cuda.synchronise(stream)
    small.free()
    with pytest.raises(Misuse, match="which is not allocated"):
        cuda.copy_in(small, host, 4, stream)
    with pytest.raises(Misuse, match="which is not allocated"):
        gpu.cuda.cudaFree(small.handle)
    with pytest.raises(Misuse, match="called while a stream is recorded"):
        cuda.record(stream, lambda: cuda.synchronise(stream))


def test_calls_of_cuda_are_those_of_every_version() -> None:
    fake = {name: getattr(FakeCuda, name) for name in vars(FakeCuda) if name.startswith("cuda")}
    calls = {name: value for name, value in fake.items() if inspect.isfunction(value)}
    found = {name: list(inspect.signature(f).parameters)[1:] for name, f in calls.items()}
    assert found == NAMES["calls"]
    constants = {name: value for name, value in fake.items() if name not in calls}
    kinds = {n: v if isinstance(v, int) else {m.name: int(m) for m in v}
             for n, v in constants.items()}  # fmt: skip
    assert kinds == NAMES["constants"]


def test_calls_of_cuda_are_those_that_are_installed() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    for name in NAMES["calls"]:
        assert callable(getattr(runtime, name))


def test_names_of_tensorrt_are_those_of_every_version(gpu: Machine) -> None:
    ours = {"trt", "log", "inputs", "outputs", "session", "dtype", "limits", "infer"}
    for kind, name in ((FakeEngine, "ICudaEngine"), (FakeContext, "IExecutionContext")):
        public = {n for n in vars(kind) if not n.startswith("_")}
        assert public - ours <= set(COMMON[name])
    for name in ("DataType", "TensorIOMode", "TensorLocation"):
        assert set(getattr(gpu.trt, name).__members__) <= set(COMMON[name])
