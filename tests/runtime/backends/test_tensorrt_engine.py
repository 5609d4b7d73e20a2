"""An engine on the memory of a made-up GPU says what ONNX Runtime says, whatever goes wrong."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import Machine
from numpy.typing import NDArray
from onnx.helper import make_node
from small_graphs import graph_bytes

from ifmmin.runtime.backends import tensorrt_buffers, tensorrt_engine
from ifmmin.runtime.backends.cuda import Cuda
from ifmmin.runtime.backends.tensorrt import typical_inputs
from ifmmin.runtime.backends.tensorrt_buffers import EngineTensor
from ifmmin.runtime.backends.tensorrt_engine import GRAPH_BYTES, EngineRunner
from ifmmin.runtime.errors import EngineError, InputError

GRAPHS = (
    "a.latency.fp32", "a.latency.fp16", "t.latency.fp32", "a.throughput.fp32", "a.throughput.fp16",
    "a.step.fp32", "t.step.fp32", "a.summary.fp32", "a_t.head.fp16",
)  # fmt: skip
BATCHES = "a.throughput.fp32"
CALLS = ("set_input_shape", "infer_shapes", "all_binding_shapes_specified", "set_tensor_address",
         "execute_async_v3")  # fmt: skip


def frames(length: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {"a": rng.standard_normal((length, 5), dtype=np.float32)}


def taken(gpu: Machine) -> int:
    """The largest piece of the device's memory."""
    return max(memory.size for memory in gpu.cuda.device.values())


@pytest.mark.parametrize("name", GRAPHS)
def test_every_form_of_graph(gpu: Machine, name: str) -> None:
    """Two shapes at each number of calls: plain, recorded, after the buffers have moved."""
    run, rng = gpu.runner(name), np.random.default_rng(0)
    for size in ("optimum", "minimum", "maximum", "minimum"):
        shapes = {tensor.name: getattr(tensor, size) for tensor in run.inputs}
        inputs = {
            t.name: np.ones(shapes[t.name], np.int64) if t.dtype == np.int64
            else rng.standard_normal(shapes[t.name]).astype(t.dtype)
            for t in run.inputs
        }  # fmt: skip
        for _ in range(4):
            gpu.require_right(run, inputs, name)
    assert run.recorded > 0
    assert run.notes == []


def test_answers_belong_to_the_caller(gpu: Machine) -> None:
    run = gpu.runner()
    for _ in range(5):  # plain, then recorded
        (first,) = run(frames(9))
        kept = first.copy()
        run(frames(9, seed=1))
        np.testing.assert_array_equal(first, kept)
        first[:] = 0  # not in what the next call reads
    gpu.require_right(run, frames(9))


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
def test_misfits_never_reach_it(gpu: Machine, inputs: dict[str, NDArray[Any]], words: str) -> None:
    run = gpu.runner()
    with pytest.raises(InputError) as caught:
        run(inputs)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    for length in (200, 1):
        gpu.require_right(run, frames(length))


@pytest.mark.parametrize("call", CALLS)
def test_a_refusal_is_named_and_the_next_call_is_right(gpu: Machine, call: str) -> None:
    run = gpu.runner(cuda_graphs=False)
    name = {"infer_shapes": "shapes of a", "all_binding_shapes_specified": "shapes of all"}
    for before in (None, frames(9)):
        if before:
            gpu.require_right(run, before)
        gpu.trt.refuses = call
        inputs = frames(9 if call == "execute_async_v3" else 8)
        if call == "set_tensor_address" and before:
            continue  # addresses are set already
        with pytest.raises(EngineError, match=name.get(call, call)):
            run(inputs)
        gpu.trt.refuses = None
        gpu.require_right(run, inputs)


@pytest.mark.parametrize("much", [False, True])
def test_no_memory_for_a_context(gpu: Machine, much: bool) -> None:
    gpu.trt.memory += GRAPH_BYTES * much
    gpu.trt.refuses = "create_execution_context"
    with pytest.raises(EngineError, match="no memory to run the engine"):
        gpu.runner()


def test_engines_that_we_cannot_serve(gpu: Machine) -> None:
    engine: Any = gpu.engine(*gpu.graph())
    with pytest.raises(EngineError, match="it has logits, a; t, logits were wanted"):
        EngineRunner(gpu.trt, Cuda(), engine, ["t", "logits"])
    engine.get_tensor_location = lambda name: gpu.trt.TensorLocation.HOST
    with pytest.raises(EngineError, match="wants the values of a to know its shapes"):
        EngineRunner(gpu.trt, Cuda(), engine, ["a", "logits"])
    engine.get_tensor_dtype = lambda name: type("Kind", (), {"name": "FP8"})
    with pytest.raises(EngineError, match="a is of type FP8"):
        EngineRunner(gpu.trt, Cuda(), engine, ["a", "logits"])


def test_nothing_is_allocated_per_call(gpu: Machine) -> None:
    run = gpu.runner(cuda_graphs=False)
    run(frames(1))
    gpu.cuda.calls.clear()
    for length in range(1, 200, 7):
        run(frames(length))
    assert set(gpu.cuda.calls) == {"cudaSetDevice", "cudaMemcpyAsync", "cudaStreamSynchronize"}


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Next to nothing is taken at once."""
    monkeypatch.setattr(tensorrt_buffers, "AT_ONCE_BYTES", 20)


@pytest.mark.usefixtures("tight")
def test_large_buffers_grow_by_doubling(gpu: Machine) -> None:
    run = gpu.runner()
    gpu.cuda.calls.clear()
    for length in range(1, 201):
        gpu.require_right(run, frames(length))
    assert gpu.cuda.calls.count("cudaMalloc") == 9  # 2, 4, ... 128, 200 frames; logits
    assert taken(gpu) == 200 * 5 * 4


@pytest.mark.usefixtures("tight")
def test_no_memory_to_grow(gpu: Machine) -> None:
    run = gpu.runner()
    for _ in range(4):
        gpu.require_right(run, frames(2))
    assert run.recorded == 1
    gpu.cuda.fails["cudaMalloc"] = 2
    with pytest.raises(EngineError, match="out of memory"):
        run(frames(100))
    gpu.require_right(run, frames(2))  # the recorded graph has the address that is gone
    gpu.require_right(run, frames(100))


def test_an_interrupted_call_ends_first(gpu: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = gpu.runner()
    synchronise = Cuda.synchronise

    def interrupt(self: Cuda, stream: Any) -> None:
        raise KeyboardInterrupt

    for seed in range(5):
        monkeypatch.setattr(Cuda, "synchronise", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(frames(9))
        assert gpu.cuda.pending
        monkeypatch.setattr(Cuda, "synchronise", synchronise)
        gpu.require_right(run, frames(9, seed=seed))


def test_warming_up_takes_typical_inputs(gpu: Machine) -> None:
    run = gpu.runner(BATCHES)
    inputs = typical_inputs(run.inputs)
    assert inputs["a"].shape == (8, 50, 5)
    assert list(inputs["a_lengths"]) == [50] * 8
    run.warm_up(inputs)
    assert run.recorded == 1
    assert run.notes == []
    tensor = EngineTensor("a", np.dtype(np.float16), True)
    assert [tensor.nbytes(shape) for shape in ((), (3, 5), (0, 5))] == [2, 30, 0]


def test_a_shape_is_recorded_at_its_third_call(gpu: Machine) -> None:
    run = gpu.runner()
    for call in range(1, 7):
        gpu.require_right(run, frames(9, seed=call))
        assert run.recorded == (call >= 3)
    gpu.cuda.calls.clear()
    gpu.require_right(run, frames(9, seed=9))
    assert gpu.cuda.calls == ["cudaSetDevice", "cudaGraphLaunch", "cudaStreamSynchronize"]
    gpu.require_right(run, frames(10))  # the plain context is at another shape now
    gpu.require_right(run, frames(9, seed=10))


def test_shapes_that_change_are_not_recorded(gpu: Machine) -> None:
    run = gpu.runner()
    for length in (*range(1, 100), *range(1, 100)):
        run(frames(length))
    assert run.recorded == 0
    assert "cudaStreamBeginCapture" not in gpu.cuda.calls


def test_few_are_kept_and_the_usual_ones_stay(gpu: Machine) -> None:
    run = gpu.runner()
    for _ in range(9):
        for length in range(1, 7):  # two more than are kept: none may push another out
            gpu.require_right(run, frames(length))
    assert run.recorded == 4
    assert gpu.cuda.calls.count("cudaStreamBeginCapture") == 4
    for _ in range(18):
        gpu.require_right(run, frames(6))
    assert gpu.cuda.calls.count("cudaStreamBeginCapture") == 5
    assert run.recorded == 4


OTHER = "the recorded graph gives another answer than the engine"
LIES = dict.fromkeys(("empty", "frozen", "late", "noisy"), OTHER) | {
    "False": "TensorRT refuses execute_async_v3",
    "raises": "operation not permitted when stream is capturing",
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_given_up_loudly(gpu: Machine, lie: str, caplog: pytest.LogCaptureFixture) -> None:
    run = gpu.runner()
    gpu.trt.capture = lie
    with caplog.at_level(logging.WARNING, "ifmmin.tensorrt"):
        for call in range(8):
            gpu.require_right(run, frames(9, seed=call))
    (note,) = run.notes
    assert LIES[lie] in note
    assert "runs without CUDA graphs" in note
    assert note in [record.getMessage() for record in caplog.records]
    assert gpu.cuda.calls.count("cudaStreamBeginCapture") == 1
    assert run.recorded == 0
    assert gpu.cuda.last_error == 0


def test_an_output_that_is_left_out_is_found(gpu: Machine) -> None:
    """Even one that is the same for both inputs of the comparison."""
    nodes = [make_node("Neg", ["a"], ["negative"]), make_node("Sign", ["a"], ["sign"])]
    graph = graph_bytes(nodes, {"a": ("T_a", 5)}, {}, outputs=("negative", "sign"))
    run = gpu.runner(graph=graph)
    gpu.trt.capture = "partial"
    for seed in range(5):
        inputs = frames(9, seed=seed)
        negative, sign = run(inputs)
        np.testing.assert_array_equal(negative, -inputs["a"])
        np.testing.assert_array_equal(sign, np.sign(inputs["a"]))
    assert OTHER in run.notes[0]


def test_one_that_lies_costs_the_others_their_trust(gpu: Machine) -> None:
    run = gpu.runner()
    for seed in range(3):
        gpu.require_right(run, frames(9, seed=seed))
    assert run.recorded == 1
    gpu.trt.capture = "late"
    for seed in range(3):
        gpu.require_right(run, frames(8, seed=seed))
    assert run.recorded == 0


@pytest.mark.parametrize(
    "call", ["cudaStreamBeginCapture", "cudaGraphInstantiate", "cudaGraphLaunch"]
)
def test_cuda_that_refuses_to_record(gpu: Machine, call: str) -> None:
    run = gpu.runner()
    gpu.cuda.fails[call] = 901
    for seed in range(5):
        gpu.require_right(run, frames(9, seed=seed))
    assert f"{call} failed" in run.notes[0]


def test_inputs_that_prove_nothing_are_not_recorded(gpu: Machine) -> None:
    graph = graph_bytes([make_node("Sign", ["a"], ["y"])], {"a": ("T_a", 5)}, {})
    run = gpu.runner(graph=graph)
    for _ in range(5):  # half of it has the same signs
        np.testing.assert_array_equal(run(frames(9))[0], np.sign(frames(9)["a"]))
    assert run.recorded == 0
    assert run.notes == [], "tried again with the next input"


def test_engines_that_need_much_memory_are_not_recorded(gpu: Machine) -> None:
    gpu.trt.memory = GRAPH_BYTES + (1 << 20)
    run = gpu.runner()
    assert "each would need 257 MB of the GPU's memory" in run.notes[0]
    for _ in range(5):
        gpu.require_right(run, frames(9))
    assert run.recorded == 0


MUCH = 1 << 20
LARGEST = MUCH + (1 << 16)
"""For 200 frames."""


@pytest.fixture
def much(gpu: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A GPU whose engines need much memory between layers; made-up memory takes its time too."""
    monkeypatch.setattr(tensorrt_engine, "GRAPH_BYTES", MUCH)
    gpu.trt.memory = LARGEST
    return gpu


def test_memory_grows_with_the_sizes(much: Machine) -> None:
    run = much.runner()
    assert taken(much) < 1 << 13, "nothing before it is known what comes"
    for length in (1, 9, 3, 100, 150, 200, 1):
        before = taken(much)
        much.require_right(run, frames(length))
        needed = int(np.ceil(LARGEST * length / 200))
        assert max(needed, before) <= taken(much) <= max(1.25 * needed, before, 1 << 13)
        assert taken(much) <= LARGEST
    assert taken(much) == LARGEST


def test_sizes_that_grow_bit_by_bit_seldom_allocate(much: Machine) -> None:
    run = much.runner()
    much.cuda.calls.clear()
    for length in range(20, 201):
        run(frames(length))
    assert 0 < much.cuda.calls.count("cudaMalloc") < 15
    assert much.cuda.calls.count("cudaFree") < 15
    much.cuda.calls.clear()
    much.require_right(run, frames(200, seed=1))
    assert "cudaMalloc" not in much.cuda.calls


def test_memory_of_batches_of_several_inputs(much: Machine) -> None:
    run = much.runner(BATCHES)
    for batch, length in ((1, 9), (8, 50), (3, 4)):
        rng = np.random.default_rng(batch)
        inputs: dict[str, NDArray[Any]] = {
            "a": rng.standard_normal((batch, length, 5), dtype=np.float32),
            "a_lengths": rng.integers(1, length + 1, batch),
        }
        much.require_right(run, inputs, BATCHES)
    assert taken(much) < LARGEST // 2


def test_no_memory_between_layers(much: Machine) -> None:
    run = much.runner()
    much.require_right(run, frames(9))
    much.cuda.fails["cudaMalloc"] = 2
    with pytest.raises(EngineError, match=r"out of memory .*; close other programs"):
        run(frames(150))
    for length in (9, 150):
        much.require_right(run, frames(length))


def test_a_version_that_cannot_tell_gets_the_largest(much: Machine) -> None:
    run = much.runner()
    much.trt.refuses = "update_device_memory_size_for_shapes"
    much.require_right(run, frames(9))
    assert taken(much) == LARGEST


def test_other_engines_leave_memory_to_tensorrt(much: Machine) -> None:
    much.trt.memory = MUCH
    run = much.runner()
    much.require_right(run, frames(200))
    assert taken(much) < 1 << 13
