"""CUDA through cuda-python: what is missing is said in one line, what is taken is given back."""

from __future__ import annotations

import gc
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import Machine
from run_command import run_python

from ifmmin.runtime.backends import cuda
from ifmmin.runtime.backends.cuda import Cuda
from ifmmin.runtime.errors import BackendUnavailable, EngineError


def refusal(device: int = 0) -> str:
    started = time.perf_counter()
    with pytest.raises(BackendUnavailable) as caught:
        Cuda(device)
    assert time.perf_counter() - started < 2
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    return monkeypatch


def test_no_cuda_python(absent: pytest.MonkeyPatch) -> None:
    absent.setattr(cuda, "load_driver", object)
    assert "pip install 'cuda-python>=12.6,<13'" in refusal()
    absent.setattr(cuda, "load_driver", lambda: None)
    message = refusal()
    assert "no NVIDIA driver is running here" in message
    assert "pip" not in message, "of no use without a driver"


def test_a_cuda_python_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "__init__.py").touch()  # that of 12.6 has one, and would be found first
    (tmp_path / "cuda" / "cudart.py").write_text("raise ImportError('libcudart:\\n no such file')")
    monkeypatch.setattr(cuda, "load_driver", object)
    for name in _cuda_modules():
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert "does not load (libcudart: no such file)" in refusal()
    for name in _cuda_modules():
        del sys.modules[name]  # for good: what monkeypatch deletes it puts back


def _cuda_modules() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == "cuda"]


def test_the_older_name_is_taken_where_the_newer_is_not(absent: pytest.MonkeyPatch) -> None:
    absent.setitem(sys.modules, "cuda.cudart", FakeCuda())
    assert Cuda().sm == "SM87"


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (FakeCuda(driver=0), "no NVIDIA driver is running here"),
        (FakeCuda(driver=12060, runtime=13040), "is for CUDA 12.6, cuda-python for 13.4"),
        (FakeCuda(gpus=0), "shows no GPU to this process; look at CUDA_VISIBLE_DEVICES"),
        (FakeCuda(runtime=11080), "is for CUDA 11.8, at least 12.0 was wanted"),
    ],
    ids=["no driver", "older driver", "no GPU", "old cuda-python"],
)
def test_nothing_to_run_on(fake: FakeCuda, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    assert words in refusal()


def test_gpus_that_are_not_there_or_taken(gpu: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "choose one of 0 to 0" in refusal(1)
    assert "choose one of" in refusal(-1)
    gpu.cuda.fails["cudaSetDevice"] = 46
    assert "GPU 0 does not start: cudaSetDevice failed: CUDA-capable device(s)" in refusal()
    gpu.cuda.fails["cudaGetDeviceCount"] = 3
    assert "CUDA does not start here: an error (CUDA error 3)" in refusal()
    absent = Mock(side_effect=RuntimeError("Failed to dlopen libcuda.so.1"))
    monkeypatch.setattr(gpu.cuda, "cudaGetDeviceCount", absent)
    assert "no NVIDIA driver is running here" in refusal()


def test_what_the_gpu_is(gpu: Machine) -> None:
    cuda = Cuda()
    assert (cuda.name, cuda.sm, cuda.device) == ("Orin", "SM87", 0)
    memory = cuda.allocate(1000)
    assert cuda.free_bytes() == gpu.cuda.total - 1000
    memory.free()
    memory.free()
    assert cuda.free_bytes() == gpu.cuda.total


def test_copies_happen_when_they_are_waited_for(gpu: Machine) -> None:
    cuda = Cuda()
    stream, device = cuda.stream(), cuda.allocate(8)
    host, back = cuda.allocate_host(8), cuda.allocate_host(8)
    host.bytes[:] = 1
    cuda.copy_in(device, host, 8, stream)
    cuda.copy_out(back, device, 8, stream)
    host.bytes[:] = np.arange(8)
    assert set(back.bytes) == {0xFF}
    cuda.synchronise(stream)
    assert list(back.bytes) == list(range(8))


def _require_replayed(cuda: Cuda, size: int) -> None:
    """Copies of a recorded graph are done at each launch, and not before."""
    stream, device = cuda.stream(), cuda.allocate(size)
    host, back = cuda.allocate_host(size), cuda.allocate_host(size)
    back.bytes[:] = 0xFF

    def work() -> None:
        cuda.copy_in(device, host, size, stream)
        cuda.copy_out(back, device, size, stream)

    graph = cuda.record(stream, work)
    cuda.synchronise(stream)
    assert set(back.bytes) == {0xFF}, "recorded, not done"
    for value in (3, 5):
        host.bytes[:] = value
        cuda.launch(graph, stream)
        cuda.synchronise(stream)
        assert set(back.bytes) == {value}


def test_work_is_recorded_and_done_at_each_launch(gpu: Machine) -> None:
    _require_replayed(Cuda(), 4)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_failed_recording_leaves_order(gpu: Machine, kind: type[BaseException]) -> None:
    cuda = Cuda()
    stream = cuda.stream()

    def fail() -> None:
        raise kind

    for status in (0, 901):
        gpu.cuda.fails["cudaStreamEndCapture"] = status
        with pytest.raises(kind):
            cuda.record(stream, fail)
        assert gpu.cuda.last_error == 0
        stream.handle.recording = None  # what the failing call would have done
    for call in ("cudaStreamEndCapture", "cudaGraphInstantiate"):
        gpu.cuda.fails[call] = 901
        with pytest.raises(EngineError, match=rf"{call} failed: an error \(CUDA error 901\)"):
            cuda.record(stream, lambda: None)
        stream.handle.recording = None
    cuda.record(stream, lambda: None)


def test_too_little_memory(gpu: Machine) -> None:
    cuda = Cuda()
    with pytest.raises(
        EngineError, match=r"cudaMalloc failed: out of memory .*close other"
    ) as info:
        cuda.allocate(2 << 30)
    assert "\n" not in str(info.value)
    assert gpu.cuda.last_error == 0, "TensorRT would blame itself"


def test_the_gpu_is_one_of_each_thread(gpu: Machine) -> None:
    fake, gpu.cuda.gpus = gpu.cuda, 2
    cuda = Cuda(1)
    stream, device, host = cuda.stream(), cuda.allocate(4), cuda.allocate_host(4)
    with ThreadPoolExecutor(1) as other:
        refused = other.submit(cuda.copy_in, device, host, 4, stream).exception()
        assert str(refused) == "cudaMemcpyAsync failed: an error (CUDA error 400)"
        other.submit(cuda.use).result()
        other.submit(cuda.copy_in, device, host, 4, stream).result()
    assert fake.pending == 1
    cuda.synchronise(stream)


def test_everything_is_given_back(gpu: Machine) -> None:
    cuda = Cuda()
    held = [cuda.allocate(4), cuda.allocate_host(4), cuda.stream()]
    held.append(cuda.record(held[2], lambda: None))
    assert gpu.cuda.held == 4
    held.clear()
    gc.collect()
    assert gpu.cuda.held == 0


def test_no_driver_here_ends_in_one_line_and_not_in_a_crash() -> None:
    script = (
        "from ifmmin.runtime.backends.cuda import Cuda\n"
        "from ifmmin.runtime.cli.app import guarded\n"
        "sys.exit(guarded(lambda: print(Cuda().name) or 0))"
    )
    ran = run_python(script)
    if ran.code == 0:
        pytest.skip(f"there is a GPU here: {ran.out.strip()}")
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran


@pytest.mark.gpu
def test_a_real_gpu() -> None:
    try:
        cuda = Cuda()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    assert re.fullmatch(r"SM\d+", cuda.sm)
    _require_replayed(cuda, 1 << 20)
