"""ONNX Runtime on NVIDIA GPUs: by its own kernels (CUDA), or by TensorRT inside of it.

ONNX Runtime lists the providers that were compiled in, whether they can work or not. One that
cannot is reported on stderr, and the session runs on the CPU instead: so it is asked before.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import io
import json
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bundle import Bundle, GraphEntry, ProfileSpec
from ..errors import BackendUnavailable, one_line
from ..files import cache_dir
from .base import Backend, LoadedGraph
from .cuda import NO_DRIVER, load_driver, missing_libraries, require_gpu
from .onnxruntime import (
    CPU,
    Placement,
    load_onnxruntime,
    make_session,
    placement_of,
    runner_of,
    session_options,
)
from .profile import profile_of, run_smallest

COMPUTING = ("Conv", "Gemm", "GRU", "LSTM", "Loop", "MatMul", "RNN", "Scan")
"""Parts of names of what the network spends its time in. The rest handles sizes and masks, which
providers leave to the CPU on purpose: it is cheaper there than a way to the GPU and back."""


def require_placement(session: Any, provider: str, placement: Placement, entry: GraphEntry) -> None:
    """BackendUnavailable unless the provider is there and computes; it says how many ran where.

    Where this ONNX Runtime does not tell what runs where, that the session has the provider first
    must do.
    """
    providers = list(session.get_providers())
    if not providers or providers[0] != provider:
        have = ", ".join(providers) or "none"
        raise BackendUnavailable(
            f"ONNX Runtime gave {entry.file} a session without {provider} (it has {have}) and "
            "no reason; take another backend"
        )
    if not placement.operators:
        return
    computing = _computing_on_the_cpu(placement)
    if computing or not placement.nodes.get(provider):
        where = ", ".join(f"{count} on {name}" for name, count in placement.nodes.items())
        what = (
            f" ({', '.join(f'{n} {kind}' for kind, n in computing.items())})" if computing else ""
        )
        raise BackendUnavailable(
            f"{provider} does not compute {entry.file}: of its nodes {where}{what}; export it in "
            "another precision or recurrence, or take another backend"
        )


def notes_of(provider: str, placement: Placement) -> tuple[str, ...]:
    """One note on what the provider left to another, if it left anything."""
    others = {name: n for name, n in placement.nodes.items() if name != provider}
    if not others:
        return ()
    where = ", ".join(f"{count} on {name}" for name, count in others.items())
    return (f"{placement.nodes.get(provider, 0)} nodes on {provider}, {where}",)


def _computing_on_the_cpu(placement: Placement) -> Mapping[str, int]:
    types: Mapping[str, int] = placement.operators.get(CPU, {})
    return {kind: n for kind, n in types.items() if any(part in kind for part in COMPUTING)}


CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
_LIBRARIES = {CUDA: "cuda", TENSORRT: "tensorrt"}
_TITLES = {CUDA: "CUDA", TENSORRT: "TensorRT"}
_WITH_CUDA = "onnxruntime-gpu[cuda,cudnn]"
_UP_TO_CUDA_12 = "<1.27"
"""Later wheels of PyPI are for CUDA 13."""


def require_provider(ort: Any, provider: str, device: int) -> str:
    """The name of the GPU that the provider will run on.

    Loads CUDA's libraries where pip has put them. Raises BackendUnavailable where the provider was
    not compiled in, a library or the driver is missing, or there is no such GPU.
    """
    _require_compiled_in(ort, provider)
    _preload(ort)
    driver = load_driver()
    missing = _missing(ort, provider)
    if driver is None and "libcuda.so.1" not in missing:
        missing.append("the NVIDIA driver")
    if missing:
        raise BackendUnavailable(
            f"ONNX Runtime {ort.__version__} cannot load its {_TITLES[provider]} provider: "
            f"{', '.join(missing)} not found; {'; '.join(_cures(ort, missing, driver is None))}"
        )
    return require_gpu(
        driver, device, _cuda(ort), f"run {_install('onnxruntime-gpu' + _UP_TO_CUDA_12)}"
    )


def _require_compiled_in(ort: Any, provider: str) -> None:
    available = list(ort.get_available_providers())
    if provider in available:
        return
    have = ", ".join(name.removesuffix("ExecutionProvider") for name in available)
    if platform.machine() == "aarch64":
        # Wheels of PyPI hold no code for Jetson Orin, and lack the provider of TensorRT.
        cure = "on a Jetson, take the backend tensorrt, which needs JetPack alone"
    else:
        cure = "run pip uninstall onnxruntime, then pip install 'ifmmin[gpu]'"
    raise BackendUnavailable(
        f"ONNX Runtime {ort.__version__} has no {_TITLES[provider]} provider here, only {have}; "
        f"{cure}"
    )


def _preload(ort: Any) -> None:
    """Load what pip installed beside ONNX Runtime, which the loader would not find."""
    preload = getattr(ort, "preload_dlls", None)  # since 1.21
    if preload is not None:
        # It prints what is missing, and warns of a plugin that it cannot register.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            preload()


def _missing(ort: Any, provider: str) -> list[str]:
    folder = Path(ort.__file__).parent / "capi"
    tensorrt = importlib.util.find_spec("tensorrt_libs")
    places = [Path(place) for place in (tensorrt and tensorrt.submodule_search_locations) or ()]
    found: list[str] = []
    # TensorRT leaves to CUDA what it cannot run.
    for name in dict.fromkeys((provider, CUDA)):
        path = folder / f"libonnxruntime_providers_{_LIBRARIES[name]}.so"
        if name == TENSORRT and sys.platform == "linux" and not path.is_file():
            found.append(path.name)  # wheels for arm64 name it and do not bring it
        found += missing_libraries(path, places)
    return list(dict.fromkeys(found))


def _cures(ort: Any, missing: list[str], no_driver: bool) -> list[str]:
    """What to do about each kind of thing that is missing."""
    tensorrt = [n for n in missing if n.startswith(("libnvinfer", "libnvonnxparser"))]
    other = [n for n in missing if n not in tensorrt and "libcuda.so" not in n and " " not in n]
    major = _cuda(ort).split(".")[0]
    cures = [NO_DRIVER] if no_driver else []
    if other and major == "12":
        cures.append(f"for CUDA 12 run {_install(_WITH_CUDA + _UP_TO_CUDA_12)}")
    elif other:
        cures.append(f"for CUDA {major or 'of its version'} run {_install(_WITH_CUDA)}")
        cures.append(f"on a machine of CUDA 12 run {_install(_WITH_CUDA + _UP_TO_CUDA_12)}")
    if tensorrt:
        version = tensorrt[0].rsplit(".", 1)[-1]
        below = f"<{int(version) + 1}" if version.isdigit() else ""
        cures.append(f"for TensorRT {version} run {_install(f'tensorrt-cu{major}{below}')}")
    return cures


def _install(package: str) -> str:
    return f"pip install '{package}'"


def _cuda(ort: Any) -> str:
    """Version of CUDA that ONNX Runtime was built for, e.g. `13.0`; empty where it does not say."""
    return str(getattr(ort, "cuda_version", "") or "")


_FLAGS = {"fp16": "trt_fp16_enable", "int8-qdq": "trt_int8_enable"}
"""The provider's networks are weakly typed: without its flag a graph's type is an error."""


def tensorrt_options(
    device: int, entry: GraphEntry, profile: Mapping[str, ProfileSpec], folder: Path | None
) -> dict[str, str]:
    """Options of the provider for a graph.

    Its precision is the graph's; sizes are those of `profile`, so that nothing is rebuilt while it
    runs. folder: where engines and timings are kept, None: nowhere.
    """
    options = {"device_id": str(device)}
    if entry.precision in _FLAGS:
        options[_FLAGS[entry.precision]] = "1"
    for which, attribute in (("min", "minimum"), ("opt", "optimum"), ("max", "maximum")):
        shapes = {name: getattr(spec, attribute) for name, spec in profile.items()}
        options[f"trt_profile_{which}_shapes"] = _shapes(shapes)
    if folder is not None:
        for what in ("engine", "timing"):
            options[f"trt_{what}_cache_enable"] = "1"
            options[f"trt_{what}_cache_path"] = str(folder)
    return options


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def tf32_note(entry: GraphEntry) -> tuple[str, ...]:
    """The provider has no option against TF32; only the environment of the process has."""
    if entry.precision != "fp32" or os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        return ()
    return (
        "TensorRT may round factors to TF32 on GPUs since Ampere; start with "
        "NVIDIA_TF32_OVERRIDE=0 for all of float32, once the cache is empty",
    )


class ProviderCache:
    """A directory for engines of one graph, on one GPU, built by one set of versions.

    The provider itself takes any file that bears the right name.
    """

    def __init__(
        self,
        root: Path,
        onnxruntime: str,
        gpu: str,
        entry: GraphEntry,
        profile: Mapping[str, ProfileSpec],
    ) -> None:
        self.folder: Path | None = None
        """None where nothing is kept."""
        self.notes: list[str] = []
        self._filled = False
        sizes = {name: [s.minimum, s.optimum, s.maximum] for name, s in profile.items()}
        tf32 = os.environ.get("NVIDIA_TF32_OVERRIDE", "")
        parts = [onnxruntime, _tensorrt_version(), gpu, entry.sha256, sizes, tf32]
        name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        folder = root / "onnxruntime-tensorrt" / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.notes.append(f"engines are not kept: {folder} ({error.strerror})")
            return
        self.folder = folder
        self._filled = any(folder.iterdir())

    def clear(self) -> bool:
        """Whether anything was in it from an earlier start; it is gone now."""
        if self.folder is None or not self._filled:
            return False
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        return True


def _tensorrt_version() -> str:
    """Of the library that the provider has loaded; empty where it cannot be asked."""
    try:
        return str(ctypes.CDLL("libnvinfer.so.10").getInferLibVersion())
    except (OSError, AttributeError):
        return ""


_CURE = "run pip install 'ifmmin[gpu]'"


class OnnxRuntimeCuda(Backend):
    """ONNX Runtime's CUDA execution provider.

    device_id: which GPU. What shapes arrays may run on the CPU, what computes may not.

    Raises BackendUnavailable where the provider, a library of CUDA, the driver or the GPU is
    missing.
    """

    name = "onnxruntime-cuda"
    provider = CUDA

    def __init__(self, *, device_id: int = 0) -> None:
        self._ort: Any = load_onnxruntime(_CURE)
        self._device = device_id
        self._gpu = require_provider(self._ort, self.provider, device_id)

    def open(self, bundle: Bundle, entry: GraphEntry) -> LoadedGraph:
        """Make a session of a graph of a bundle and run it once.

        Raises BackendUnavailable where the graph fails on the GPU, or what computes in it would
        run on the CPU.
        """
        graph = bundle.graph(entry)
        session, notes = self._session(graph, bundle, entry)
        placement = placement_of(session)
        require_placement(session, self.provider, placement, entry)
        run = runner_of(session)
        try:
            # Kernels that were not compiled for this GPU fail at the first call, not before.
            run_smallest(run, entry, bundle.manifest.modalities)
        except Exception as error:  # the types that it raises are private
            raise self._failed(entry, error) from error
        said = (*placement.notes, *notes_of(self.provider, placement), *notes)
        return LoadedGraph(run, entry, placement.nodes, said)

    def _session(self, graph: bytes, bundle: Bundle, entry: GraphEntry) -> tuple[Any, list[str]]:
        """A session, and what to know of how it came about."""
        return self._make(graph, entry, [self._cuda()]), []

    def _make(self, graph: bytes, entry: GraphEntry, providers: Sequence[Any]) -> Any:
        options = session_options(self._ort, threads=1)
        try:
            return make_session(self._ort, graph, options, providers)
        except Exception as error:
            raise self._failed(entry, error) from error

    def _cuda(self) -> tuple[str, Mapping[str, str]]:
        # TF32 drops 13 bits of every factor, so that answers differ from every other backend's.
        return CUDA, {"device_id": str(self._device), "use_tf32": "0"}

    def _failed(self, entry: GraphEntry, error: Exception) -> BackendUnavailable:
        reason = one_line(error)
        # Newer versions look for it when a node first needs it.
        cudnn = "run pip install 'onnxruntime-gpu[cudnn]', or " if "cudnn" in reason.lower() else ""
        return BackendUnavailable(
            f"{self.name} cannot run {entry.file} on {self._gpu} ({reason}); {cudnn}take another "
            "backend, or an ONNX Runtime built for this GPU"
        )


class OnnxRuntimeTensorrt(OnnxRuntimeCuda):
    """ONNX Runtime's TensorRT execution provider, with the CUDA provider for what it leaves.

    device_id: which GPU. cache: root of what is kept, by default the user's cache. Batches may have
    up to 64 utterances, each as long as was verified.

    Raises BackendUnavailable as OnnxRuntimeCuda does, and where TensorRT is missing.
    """

    name = "onnxruntime-tensorrt"
    provider = TENSORRT

    def __init__(self, *, device_id: int = 0, cache: str | Path | None = None) -> None:
        super().__init__(device_id=device_id)
        self._cache = cache_dir(cache) / "engines"

    def _session(self, graph: bytes, bundle: Bundle, entry: GraphEntry) -> tuple[Any, list[str]]:
        profile = profile_of(entry, bundle.manifest.modalities)
        cache = ProviderCache(self._cache, self._ort.__version__, self._gpu, entry, profile)
        options = tensorrt_options(self._device, entry, profile, cache.folder)
        providers = [(TENSORRT, options), self._cuda()]
        notes = [*cache.notes, *tf32_note(entry)]
        try:
            return self._make(graph, entry, providers), notes
        except BackendUnavailable:
            # A file that was cut off would be in the way for ever.
            if not cache.clear():
                raise
        return self._make(graph, entry, providers), [*notes, "the kept engine was built anew"]
