"""An engine on the memory of a made-up GPU says what ONNX Runtime says, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine_answers import frames, require_right
from fake_cuda import FakeCuda, Misuse
from fake_gpu import Machine, machine
from numpy.typing import NDArray
from small_engines import GRAPHS

from ifmmin.runtime.backends import tensorrt_buffers, tensorrt_engine
from ifmmin.runtime.backends.cuda import Cuda
from ifmmin.runtime.backends.tensorrt import typical_inputs
from ifmmin.runtime.backends.tensorrt_buffers import EngineTensor
from ifmmin.runtime.backends.tensorrt_engine import EngineRunner
from ifmmin.runtime.errors import EngineError, InputError

gpu = pytest.fixture(machine)
CALLS = ["set_input_shape", "infer_shapes", "all_binding_shapes_specified", "set_tensor_address",
         "execute_async_v3"]  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_every_form_of_graph(gpu: Machine, name: str) -> None:
    """Two shapes at each number of calls: plain, recorded, after the buffers have moved."""
    run = gpu.runner(*GRAPHS[name])
    for size in ("optimum", "minimum", "maximum", "minimum"):
        inputs: dict[str, NDArray[Any]] = {}
        for tensor in run.inputs:
            shape = getattr(tensor, size)
            rng = np.random.default_rng(len(inputs))
            made = rng.standard_normal(shape).astype(tensor.dtype)
            lengths = np.ones(shape, np.int64)
            inputs[tensor.name] = lengths if tensor.dtype == np.int64 else made
        for _ in range(4):
            require_right(run, inputs, name)
    assert run.recorded > 0
    assert run.notes == []


def test_answers_belong_to_the_caller(gpu: Machine) -> None:
    run = gpu.runner(*GRAPHS["lstm"])
    for _ in range(5):  # plain, then recorded
        (first,) = run(frames(9))
        kept = first.copy()
        run(frames(9, seed=1))
        np.testing.assert_array_equal(first, kept)
        first[:] = 0  # not in what the next call reads
    require_right(run, frames(9))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (frames(201), "input a has shape (201, 5); the engine was built for (1, 5) to (200, 5)"),
        (frames(0), "input a has shape (0, 5)"),
        ({"a": np.zeros((9, 6), np.float32)}, "input a has shape (9, 6)"),
        ({"a": np.zeros((1, 9, 5), np.float32)}, "input a has shape (1, 9, 5)"),
        ({"a": np.zeros((9, 5))}, "input a is float64; float32 was wanted"),
        ({}, "the engine takes a; it was given nothing"),
        ({**frames(9), "v": np.zeros(1)}, "the engine takes a; it was given a, v"),
    ],
    ids=["long", "empty", "wide", "batch", "double", "nothing", "more"],
)
def test_what_does_not_fit_never_reaches_tensorrt(
    gpu: Machine, inputs: dict[str, NDArray[Any]], words: str
) -> None:
    run = gpu.runner(*GRAPHS["lstm"])
    with pytest.raises(InputError) as caught:
        run(inputs)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    require_right(run, frames(200))
    require_right(run, frames(1))


@pytest.mark.parametrize("call", CALLS)
def test_a_refusal_is_named_and_the_next_call_is_right(gpu: Machine, call: str) -> None:
    run = gpu.runner(*GRAPHS["lstm"], cuda_graphs=False)
    name = {"infer_shapes": "shapes of a", "all_binding_shapes_specified": "shapes of all"}
    for before in (None, frames(9)):
        if before:
            require_right(run, before)
        gpu.trt.refuses = call
        inputs = frames(9 if call == "execute_async_v3" else 8)
        if call == "set_tensor_address" and before:
            continue  # addresses are set already
        with pytest.raises(EngineError, match=name.get(call, call)):
            run(inputs)
        gpu.trt.refuses = None
        require_right(run, inputs)


def test_no_memory_for_a_context(gpu: Machine) -> None:
    gpu.trt.refuses = "create_execution_context"
    with pytest.raises(EngineError, match="no memory to run the engine"):
        gpu.runner(*GRAPHS["lstm"])


def test_an_engine_of_another_graph(gpu: Machine) -> None:
    engine = gpu.engine(*GRAPHS["lstm"])
    with pytest.raises(EngineError, match="it has logits, a; t, logits were wanted"):
        EngineRunner(gpu.trt, Cuda(), engine, ["t", "logits"])


def test_nothing_is_allocated_per_call(gpu: Machine) -> None:
    run = gpu.runner(*GRAPHS["lstm"], cuda_graphs=False)
    run(frames(1))
    gpu.cuda.calls.clear()
    for length in range(1, 200, 7):
        run(frames(length))
    assert set(gpu.cuda.calls) == {"cudaSetDevice", "cudaMemcpyAsync", "cudaStreamSynchronize"}


def test_large_buffers_grow_by_doubling(gpu: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_buffers, "_AT_ONCE", 20)
    run = gpu.runner(*GRAPHS["lstm"])
    gpu.cuda.calls.clear()
    for length in range(1, 201):
        require_right(run, frames(length))
    assert gpu.cuda.calls.count("cudaMalloc") == 9  # 2, 4, ... 128, 200 frames; logits
    assert max(memory.size for memory in gpu.cuda.device.values()) == 200 * 5 * 4


def test_no_memory_to_grow(gpu: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_buffers, "_AT_ONCE", 20)
    run = gpu.runner(*GRAPHS["lstm"])
    for _ in range(4):
        require_right(run, frames(2))
    assert run.recorded == 1
    gpu.cuda.fails["cudaMalloc"] = 2
    with pytest.raises(EngineError, match="out of memory"):
        run(frames(100))
    require_right(run, frames(2))  # the recorded graph has the address that is gone
    require_right(run, frames(100))


def test_an_interrupted_call_is_over_before_the_next(
    gpu: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = gpu.runner(*GRAPHS["lstm"])
    synchronise = Cuda.synchronise

    def interrupt(self: Cuda, stream: Any) -> None:
        raise KeyboardInterrupt

    for seed in range(5):
        monkeypatch.setattr(Cuda, "synchronise", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(frames(9))
        assert gpu.cuda.pending
        monkeypatch.setattr(Cuda, "synchronise", synchronise)
        require_right(run, frames(9, seed=seed))


def test_warming_up_takes_typical_inputs(gpu: Machine) -> None:
    run = gpu.runner(*GRAPHS["masked"])
    inputs = typical_inputs(run.inputs)
    assert inputs["a"].shape == (8, 50, 5)
    assert list(inputs["a_lengths"]) == [50] * 8
    run.warm_up(inputs)
    assert run.recorded == 1
    assert run.notes == []


Spoil = Callable[[Any, FakeCuda, Any], None]


def _no_shapes(execution: Any, cuda: FakeCuda, stream: Any) -> None:
    execution._context.execute_async_v3(int(stream.handle))


def _no_address(execution: Any, cuda: FakeCuda, stream: Any) -> None:
    execution._set_shapes(((9, 5),))
    execution._context.execute_async_v3(int(stream.handle))


def _outside(execution: Any, cuda: FakeCuda, stream: Any) -> None:
    execution.prepare(((201, 5),))


def _freed(execution: Any, cuda: FakeCuda, stream: Any) -> None:
    execution.prepare(((9, 5),))
    execution._buffers._device["logits"].free()
    execution._context.execute_async_v3(int(stream.handle))
    cuda.cudaStreamSynchronize(stream.handle)


def _small(execution: Any, cuda: FakeCuda, stream: Any) -> None:
    execution.prepare(((9, 5),))
    address = execution._buffers.address("logits")
    cuda.device[address] = cuda.device[address][:8]
    execution._context.execute_async_v3(int(stream.handle))
    cuda.cudaStreamSynchronize(stream.handle)


def _changed(execution: Any, cuda: FakeCuda, stream: Any) -> None:
    """A recorded context that takes another shape."""
    execution.prepare(((9, 5),))
    execution.queue(stream)
    cuda.cudaStreamSynchronize(stream.handle)
    graph = tensorrt_engine.record(execution._buffers._cuda, stream, execution, 0)
    execution.prepare(((8, 5),))
    execution._buffers._cuda.launch(graph.graph, stream)
    cuda.cudaStreamSynchronize(stream.handle)


MISUSES: dict[str, Spoil] = {
    "set_input_shape is missing": _no_shapes,
    "set_tensor_address is missing": _no_address,
    "outside of the profile": _outside,
    "is used, which is not allocated": _freed,
    "16 bytes of a buffer of 8": _small,
    "a recorded context has taken other shapes": _changed,
}


@pytest.mark.parametrize("words", MISUSES)
def test_misuse_of_the_fake_is_seen(gpu: Machine, words: str) -> None:
    """Controls: what the tests above rely on to find mistakes."""
    run: Any = gpu.runner(*GRAPHS["lstm"])
    with pytest.raises(Misuse, match=words):
        MISUSES[words](run._plain, gpu.cuda, run._stream)
    for handle in gpu.cuda.handles.values():
        handle.queue.clear()


def test_an_answer_that_is_not_waited_for_is_wrong(
    gpu: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = gpu.runner(*GRAPHS["lstm"], cuda_graphs=False)
    monkeypatch.setattr(Cuda, "synchronise", lambda *_: None)
    (answer,) = run(frames(9))
    assert np.isnan(answer).all()
    assert gpu.cuda.pending == 3
    for handle in gpu.cuda.handles.values():
        handle.queue.clear()


def test_types_and_places_that_we_cannot_serve(gpu: Machine) -> None:
    engine: Any = gpu.engine(*GRAPHS["lstm"])
    engine.get_tensor_location = lambda name: gpu.trt.TensorLocation.HOST
    with pytest.raises(EngineError, match="wants the values of a to know its shapes"):
        EngineRunner(gpu.trt, Cuda(), engine, ["a", "logits"])
    engine.get_tensor_dtype = lambda name: type("Kind", (), {"name": "FP8"})
    with pytest.raises(EngineError, match="a is of type FP8"):
        EngineRunner(gpu.trt, Cuda(), engine, ["a", "logits"])


def test_bytes_of_a_tensor() -> None:
    tensor = EngineTensor("a", np.dtype(np.float16), True)
    assert [tensor.nbytes(shape) for shape in ((), (3, 5), (0, 5))] == [2, 30, 0]
