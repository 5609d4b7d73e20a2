"""Engines for large batches take memory as their batches need it, and no other engine does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_cuda import Misuse
from fake_tensorrt import Machine, machine
from numpy.typing import NDArray
from small_engines import GRAPHS, frames, require_right

from ifmmin.runtime.backends import tensorrt_engine
from ifmmin.runtime.backends.cuda import Cuda
from ifmmin.runtime.backends.tensorrt_engine import EngineRunner
from ifmmin.runtime.errors import EngineError

gpu = pytest.fixture(machine)
MUCH = 1 << 20
LARGEST = MUCH + (1 << 16)
"""For 200 frames."""


@pytest.fixture(autouse=True)
def _much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up memory takes its time as well."""
    monkeypatch.setattr(tensorrt_engine, "GRAPH_BYTES", MUCH)


def large(gpu: Machine) -> EngineRunner:
    gpu.trt.memory = LARGEST
    return gpu.runner(*GRAPHS["lstm"])


def taken(gpu: Machine) -> int:
    """The largest piece of the device's memory."""
    return max(memory.size for memory in gpu.cuda.device.values())


def test_it_grows_with_the_sizes(gpu: Machine) -> None:
    run = large(gpu)
    assert taken(gpu) < 1 << 13, "nothing before it is known what comes"
    for length in (1, 9, 3, 100, 150, 200, 1):
        before = taken(gpu)
        require_right(run, frames(length))
        needed = int(np.ceil(LARGEST * length / 200))
        assert max(needed, before) <= taken(gpu) <= max(1.25 * needed, before, 1 << 13)
        assert taken(gpu) <= LARGEST
    assert taken(gpu) == LARGEST


def test_sizes_that_grow_bit_by_bit_seldom_allocate(gpu: Machine) -> None:
    run = large(gpu)
    gpu.cuda.calls.clear()
    for length in range(20, 201):
        run(frames(length))
    assert gpu.cuda.calls.count("cudaMalloc") < 15
    assert gpu.cuda.calls.count("cudaFree") < 15


def test_the_same_sizes_ask_for_nothing(gpu: Machine) -> None:
    run = large(gpu)
    run(frames(9))
    gpu.cuda.calls.clear()
    require_right(run, frames(9, seed=1))
    assert "cudaMalloc" not in gpu.cuda.calls


def test_batches_of_several_inputs(gpu: Machine) -> None:
    gpu.trt.memory = LARGEST
    run = gpu.runner(*GRAPHS["masked"])
    for batch, length in ((1, 9), (8, 50), (3, 4)):
        rng = np.random.default_rng(batch)
        inputs: dict[str, NDArray[Any]] = {
            "a": rng.standard_normal((batch, length, 5), dtype=np.float32),
            "a_lengths": rng.integers(1, length + 1, batch),
        }
        require_right(run, inputs, "masked")
    assert taken(gpu) < LARGEST // 2


def test_no_memory_to_grow(gpu: Machine) -> None:
    run = large(gpu)
    require_right(run, frames(9))
    gpu.cuda.fails["cudaMalloc"] = 2
    with pytest.raises(EngineError, match=r"out of memory .*; close other programs"):
        run(frames(150))
    require_right(run, frames(9))
    require_right(run, frames(150))


def test_a_version_that_cannot_tell_gets_the_largest(gpu: Machine) -> None:
    run = large(gpu)
    gpu.trt.refuses = "update_device_memory_size_for_shapes"
    require_right(run, frames(9))
    assert taken(gpu) == LARGEST


def test_no_memory_for_the_context(gpu: Machine) -> None:
    gpu.trt.memory = LARGEST
    gpu.trt.refuses = "create_execution_context"
    with pytest.raises(EngineError, match="no memory to run the engine"):
        gpu.runner(*GRAPHS["lstm"])


def test_other_engines_leave_it_to_tensorrt(gpu: Machine) -> None:
    gpu.trt.memory = MUCH
    run = gpu.runner(*GRAPHS["lstm"])
    require_right(run, frames(200))
    assert taken(gpu) < 1 << 13


Spoil = Callable[[Any], None]


def _not_asked(run: Any) -> None:
    run._plain._memory.fit = lambda context: None
    run(frames(9))


def _not_asked_again(run: Any) -> None:
    run(frames(9))
    run._plain._memory.fit = lambda context: None
    run(frames(8))


def _too_small(run: Any) -> None:
    memory = run._plain._memory
    run(frames(9))
    memory._size //= 2
    memory._replace = lambda needed: memory._memory
    run(frames(10))


def _freed(run: Any) -> None:
    run(frames(9))
    run._plain._memory._memory.free()
    run(frames(9))


def _before_shapes(run: Any) -> None:
    run._plain._memory.fit(run._plain._context)


MISUSES: dict[str, Spoil] = {
    "a context has no memory for its shapes": _not_asked_again,
    r"a context has no memory for its shapes$": _not_asked,
    "bytes and needs": _too_small,
    "is used, which is not allocated": _freed,
    "before the shapes of": _before_shapes,
}


@pytest.mark.parametrize("words", MISUSES)
def test_misuse_of_the_fake_is_seen(gpu: Machine, words: str) -> None:
    """Controls: what the tests above rely on to find mistakes."""
    with pytest.raises(Misuse, match=words):
        MISUSES[words](large(gpu))
    for handle in gpu.cuda.handles.values():
        handle.queue.clear()


def test_memory_of_a_context_that_has_its_own(gpu: Machine) -> None:
    run: Any = gpu.runner(*GRAPHS["lstm"])
    run(frames(9))
    with pytest.raises(Misuse, match="the memory of a context is TensorRT's"):
        run._plain._context.set_device_memory(Cuda().allocate(256).handle, 256)
