"""CUDA graphs: what is recorded, and given up loudly as soon as it cannot be trusted."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from engine_answers import frames, require_right
from fake_gpu import Machine, machine
from small_engines import GRAPHS
from small_pieces import Draw, info, model_bytes, node

from ifmmin.runtime.backends.tensorrt_engine import GRAPH_BYTES

gpu = pytest.fixture(machine)
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
