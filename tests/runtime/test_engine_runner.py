"""An engine on the memory of a made-up GPU says what ONNX Runtime says, whatever goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda, Misuse
from fake_tensorrt import Machine, machine
from numpy.typing import NDArray
from small_engines import GRAPHS, frames, require_right
from small_graphs import Draw, info, model_bytes, node

from ifmmin.runtime.backends import tensorrt_buffers, tensorrt_engine
from ifmmin.runtime.backends.cuda import Cuda
from ifmmin.runtime.backends.tensorrt import typical_inputs
from ifmmin.runtime.backends.tensorrt_buffers import EngineTensor
from ifmmin.runtime.backends.tensorrt_engine import GRAPH_BYTES, EngineRunner
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


LIES = {
    "False": "TensorRT refuses execute_async_v3",
    "raises": "operation not permitted when stream is capturing",
    "empty": "the recorded graph gives another answer than the engine",
    "frozen": "the recorded graph gives another answer than the engine",
    "late": "the recorded graph gives another answer than the engine",
    "noisy": "the recorded graph gives another answer than the engine",
}


def test_a_shape_is_recorded_at_its_third_call(gpu: Machine) -> None:
    run = gpu.runner(*GRAPHS["lstm"])
    for call in range(1, 7):
        require_right(run, frames(9, seed=call))
        assert run.recorded == (call >= 3)
    gpu.cuda.calls.clear()
    require_right(run, frames(9, seed=9))
    assert gpu.cuda.calls == ["cudaSetDevice", "cudaGraphLaunch", "cudaStreamSynchronize"]
    require_right(run, frames(10))  # the plain context is at another shape now
    require_right(run, frames(9, seed=10))


def test_shapes_that_change_are_not_recorded(gpu: Machine) -> None:
    run = gpu.runner(*GRAPHS["lstm"])
    for length in (*range(1, 100), *range(1, 100)):
        run(frames(length))
    assert run.recorded == 0
    assert "cudaStreamBeginCapture" not in gpu.cuda.calls


def test_few_are_kept_and_the_usual_ones_stay(gpu: Machine) -> None:
    run = gpu.runner(*GRAPHS["lstm"])
    for _ in range(9):
        for length in range(1, 7):  # two more than are kept: none may push another out
            require_right(run, frames(length))
    assert run.recorded == 4
    assert gpu.cuda.calls.count("cudaStreamBeginCapture") == 4
    for _ in range(18):
        require_right(run, frames(6))
    assert gpu.cuda.calls.count("cudaStreamBeginCapture") == 5
    assert run.recorded == 4


@pytest.mark.parametrize("lie", LIES)
def test_a_recording_that_fails_or_lies_is_given_up_loudly(
    gpu: Machine, lie: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = gpu.runner(*GRAPHS["lstm"])
    gpu.trt.capture = lie
    with caplog.at_level(logging.WARNING, "ifmmin.tensorrt"):
        for call in range(8):
            require_right(run, frames(9, seed=call))
    (note,) = run.notes
    assert LIES[lie] in note
    assert "runs without CUDA graphs" in note
    assert note in [record.getMessage() for record in caplog.records]
    assert gpu.cuda.calls.count("cudaStreamBeginCapture") == 1
    assert run.recorded == 0
    assert gpu.cuda.last_error == 0


def test_an_output_that_is_left_out_is_found(gpu: Machine) -> None:
    """Even one that is the same for both inputs of the comparison."""
    nodes = [node("Neg", ["a"], ["negative"]), node("Sign", ["a"], ["sign"])]
    outputs = [info("negative", "T_a", 5), info("sign", "T_a", 5)]
    graph = model_bytes(nodes, [info("a", "T_a", 5)], outputs, Draw())
    run = gpu.runner(graph, GRAPHS["lstm"][1])
    gpu.trt.capture = "partial"
    for seed in range(5):
        inputs = frames(9, seed=seed)
        negative, sign = run(inputs)
        np.testing.assert_array_equal(negative, -inputs["a"])
        np.testing.assert_array_equal(sign, np.sign(inputs["a"]))
    assert "gives another answer" in run.notes[0]


def test_one_that_lies_costs_the_others_their_trust(gpu: Machine) -> None:
    run = gpu.runner(*GRAPHS["lstm"])
    for seed in range(3):
        require_right(run, frames(9, seed=seed))
    assert run.recorded == 1
    gpu.trt.capture = "late"
    for seed in range(3):
        require_right(run, frames(8, seed=seed))
    assert run.recorded == 0


@pytest.mark.parametrize(
    "call", ["cudaStreamBeginCapture", "cudaGraphInstantiate", "cudaGraphLaunch"]
)
def test_cuda_that_refuses_to_record(gpu: Machine, call: str) -> None:
    run = gpu.runner(*GRAPHS["lstm"])
    gpu.cuda.fails[call] = 901
    for seed in range(5):
        require_right(run, frames(9, seed=seed))
    assert f"{call} failed" in run.notes[0]


def test_a_lie_that_is_not_looked_for_is_believed(
    gpu: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controls: without each part of the comparison an answer of before would be given out."""
    monkeypatch.setattr("ifmmin.runtime.backends.tensorrt_engine._require_same", lambda *_: None)
    for lie in ("empty", "frozen"):
        run = gpu.runner(*GRAPHS["lstm"])
        gpu.trt.capture = lie
        for call in range(3):
            require_right(run, frames(9, seed=call))
        with pytest.raises(AssertionError):
            require_right(run, frames(9, seed=8))


def test_inputs_that_prove_nothing_are_not_recorded(gpu: Machine) -> None:
    run = gpu.runner(*GRAPHS["lstm"])
    zeros = {"a": np.zeros((9, 5), np.float32)}
    for _ in range(5):
        require_right(run, zeros)
    assert run.recorded == 0
    assert run.notes == [], "tried again with the next input"
    require_right(run, frames(9))
    assert run.recorded == 1


def test_engines_that_need_much_memory_are_not_recorded(gpu: Machine) -> None:
    gpu.trt.memory = GRAPH_BYTES + (1 << 20)
    run = gpu.runner(*GRAPHS["lstm"])
    assert "each would need 257 MB of the GPU's memory" in run.notes[0]
    for _ in range(5):
        require_right(run, frames(9))
    assert run.recorded == 0
