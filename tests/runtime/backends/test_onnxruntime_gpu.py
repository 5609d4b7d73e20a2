"""What keeps a GPU provider of ONNX Runtime from working is said before anything is loaded."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_onnxruntime import (
    CPU,
    CUDA,
    TENSORRT,
    FakeOnnxRuntime,
    fake_driver,
    real_library,
    write_library,
)

from ifmmin.runtime.backends import onnxruntime_gpu
from ifmmin.runtime.backends.cuda import load_driver, missing_libraries, require_gpu
from ifmmin.runtime.backends.onnxruntime_gpu import require_provider
from ifmmin.runtime.errors import BackendUnavailable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at libraries of Linux")
ASK = """
import sys, time
from ifmmin.runtime.errors import BackendUnavailable
from ifmmin.runtime.backends import onnxruntime_gpu
started = time.perf_counter()
try:
    getattr(onnxruntime_gpu, sys.argv[1])()
except BackendUnavailable as error:
    assert time.perf_counter() - started < 2, "took too long"
    sys.exit("refused: " + str(error))
"""


@pytest.fixture
def module(tmp_path: Path) -> FakeOnnxRuntime:
    return FakeOnnxRuntime(tmp_path / "onnxruntime")


@pytest.fixture(autouse=True)
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_gpu, "load_driver", fake_driver)


def refusal(module: Any, provider: str = CUDA, device: int = 0) -> str:
    with pytest.raises(BackendUnavailable) as caught:
        require_provider(module, provider, device)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["OnnxRuntimeCuda", "OnnxRuntimeTensorrt"])
def test_one_line_and_nothing_else_with_the_installed_onnxruntime(kind: str, root: Path) -> None:
    """In a process of its own: native code writes past Python's stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ASK, kind], capture_output=True, text=True, cwd=root
    )
    if done.returncode == 0:
        pytest.skip("this machine has what the provider needs")
    assert done.stdout == ""
    assert done.stderr.startswith("refused: ONNX Runtime ")
    assert done.stderr.count("\n") == 1


def test_all_is_there(module: FakeOnnxRuntime, capfd: pytest.CaptureFixture[str]) -> None:
    module.install()
    assert require_provider(module, CUDA, 0) == "Orin"
    assert require_provider(module, TENSORRT, 0) == "Orin"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("machine", "cure"),
    [("x86_64", "pip install 'ifmmin[gpu]'"), ("aarch64", "take the backend tensorrt")],
)
def test_not_compiled_in(
    module: FakeOnnxRuntime, machine: str, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    module.compiled_in = ["AzureExecutionProvider", CPU]
    message = refusal(module.install(), TENSORRT)
    assert "1.31.1 has no TensorRT provider here, only Azure, CPU; " in message
    assert cure in message


@pytest.mark.parametrize(
    ("version", "wanted", "other"),
    [("13.0", "[cuda,cudnn]'", "[cuda,cudnn]<1.27'"), ("12.8", "[cuda,cudnn]<1.27'", None),
     (None, "[cuda,cudnn]'", "[cuda,cudnn]<1.27'")],
)  # fmt: skip
def test_a_library_of_cuda_is_missing(
    module: FakeOnnxRuntime, version: Any, wanted: str, other: str | None
) -> None:
    """Old versions do not say what they were built for."""
    module.cuda_version = version
    major = version.split(".")[0] if version else "of its version"
    name = "libcublasLt.so.99"
    module.needs["cuda"] = ["libc.so.6", name]
    message = refusal(module.install())
    assert f"cannot load its CUDA provider: {name} not found; " in message
    assert f"for CUDA {major} run pip install 'onnxruntime-gpu{wanted}" in message
    assert (f"CUDA 12 run pip install 'onnxruntime-gpu{other}" in message) == (other is not None)


def test_tensorrt_is_missing(module: FakeOnnxRuntime) -> None:
    module.needs["tensorrt"] = ["libnvinfer.so.10", "libnvonnxparser.so.10"]
    message = refusal(module.install(), TENSORRT)
    assert "libnvinfer.so.10, libnvonnxparser.so.10 not found" in message
    assert message.endswith("; for TensorRT 10 run pip install 'tensorrt-cu13<11'")
    assert require_provider(module, CUDA, 0) == "Orin"
    # TensorRT wants CUDA too.
    module.needs["cuda"] = ["libcublas.so.13"]
    assert "libcublas.so.13 not found" in refusal(module.install(), TENSORRT)


def test_tensorrt_that_pip_installed_is_found(
    module: FakeOnnxRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tensorrt_libs"
    folder.mkdir()
    (folder / "libnvinfer.so.10").symlink_to(real_library())
    spec = importlib.machinery.ModuleSpec("tensorrt_libs", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    module.needs["tensorrt"] = ["libnvinfer.so.10"]
    assert require_provider(module.install(), TENSORRT, 0) == "Orin"


def test_the_provider_itself_is_missing(module: FakeOnnxRuntime) -> None:
    """Wheels for arm64 name the provider of TensorRT and do not bring it."""
    folder = Path(module.__file__).parent / "capi"
    write_library(folder / "libonnxruntime_providers_cuda.so", [])
    assert "libonnxruntime_providers_tensorrt.so not found" in refusal(module, TENSORRT)


@pytest.mark.parametrize("needs", [[], ["libcuda.so.1"]])
def test_no_driver(
    module: FakeOnnxRuntime, needs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if needs and load_driver() is not None:
        pytest.skip("this machine has a driver")
    monkeypatch.setattr(onnxruntime_gpu, "load_driver", lambda: None)
    module.needs["cuda"] = needs
    message = refusal(module.install())
    assert (needs[0] if needs else "the NVIDIA driver") + " not found; install NVIDIA's" in message
    assert "pip" not in message, "no package helps"


@pytest.mark.parametrize(
    ("fake", "device", "reason"),
    [
        (fake_driver(12080), 0, "for CUDA 12.8, ONNX Runtime for 13.0; update the driver, or CURE"),
        (fake_driver(start=999), 0, r"does not start here \(CUDA error 999\)"),
        (fake_driver(start=100), 0, "shows no GPU to this process"),
        (fake_driver(gpus=()), 0, "shows no GPU to this process"),
        (fake_driver(gpus=("A", "B")), 2, "there is no GPU 2 here; choose one of 0 to 1"),
        (fake_driver(), -1, "there is no GPU -1 here"),
    ],
)
def test_a_driver_that_does_not_serve(fake: Any, device: int, reason: str) -> None:
    with pytest.raises(BackendUnavailable, match=reason):
        require_gpu(fake, device, "13.0", "CURE")


@pytest.mark.parametrize("cuda", ["13.0", "12.8", "", "unknown"])
def test_a_driver_that_serves(cuda: str) -> None:
    assert require_gpu(fake_driver(13010, gpus=("A", "B")), 1, cuda, "") == "B"


def test_the_wheel_for_old_drivers(
    module: FakeOnnxRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_gpu, "load_driver", lambda: fake_driver(12040))
    assert refusal(module.install()).endswith("or run pip install 'onnxruntime-gpu<1.27'")


def test_names_come_in_order_and_what_is_here_is_left_out(tmp_path: Path) -> None:
    path = write_library(tmp_path / "lib.so", ["libnone.so.9", "libc.so.6", "libother.so.1"])
    assert missing_libraries(path) == ["libnone.so.9", "libother.so.1"]


@pytest.mark.parametrize("runpath", ["$ORIGIN/near", "/nowhere:${ORIGIN}/near"])
def test_its_own_path_is_searched(tmp_path: Path, runpath: str) -> None:
    path = write_library(tmp_path / "lib.so", ["libnear.so.1"], runpath)
    assert missing_libraries(path) == ["libnear.so.1"]
    (tmp_path / "near").mkdir()
    near = tmp_path / "near" / "libnear.so.1"
    near.write_bytes(b"cut off")  # one that does not load counts as missing
    assert missing_libraries(path) == ["libnear.so.1"]
    near.unlink()
    near.symlink_to(real_library())
    assert missing_libraries(path) == missing_libraries(real_library()) == []
    # So are other places.
    path = write_library(tmp_path / "lib.so", ["libnear.so.1"])
    assert missing_libraries(path, [tmp_path / "near"]) == []


@pytest.mark.parametrize("content", [None, b"", b"\x7fELF\x01", b"\x7fELF\x02\x01", b"MZ" * 99])
def test_what_is_no_library_tells_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "lib.so").write_bytes(content)
    assert missing_libraries(tmp_path / "lib.so") == []


def test_a_library_that_is_cut_off_tells_nothing(tmp_path: Path) -> None:
    path = write_library(tmp_path / "lib.so", ["libnone.so.9"])
    whole = path.read_bytes()
    for length in range(64, len(whole), 40):
        path.write_bytes(whole[:length])
        assert set(missing_libraries(path)) <= {"libnone.so.9", "libnone.so.", "libnone", ""}
