"""ONNX Runtime on NVIDIA GPUs: its own kernels (CUDA), or TensorRT inside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ifmmin.runtime.backends.base import Backend, Loaded
from ifmmin.runtime.backends.engine_cache import default_directory
from ifmmin.runtime.backends.engine_profile import profile_of
from ifmmin.runtime.backends.gpu_placement import notes_of, require_placement
from ifmmin.runtime.backends.gpu_provider import CUDA, TENSORRT, require_provider
from ifmmin.runtime.backends.onnx_session import (
    load_onnxruntime,
    make_session,
    placement_of,
    runner_of,
    session_options,
)
from ifmmin.runtime.backends.tensorrt_provider import ProviderCache, tensorrt_options, tf32_note
from ifmmin.runtime.backends.warm_up import run_smallest
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.check import one_line
from ifmmin.runtime.errors import BackendUnavailable
from ifmmin.runtime.manifest import GraphEntry

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

    def open(self, bundle: Bundle, entry: GraphEntry) -> Loaded:
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
        return Loaded(run, entry, placement.nodes, said)

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

    device_id: which GPU. cache: directory under which engines and timings are kept, default see
    `engine_cache`. Batches may have up to 64 utterances, each as long as was verified.

    Raises BackendUnavailable as OnnxRuntimeCuda does, and where TensorRT is missing.
    """

    name = "onnxruntime-tensorrt"
    provider = TENSORRT

    def __init__(self, *, device_id: int = 0, cache: str | Path | None = None) -> None:
        super().__init__(device_id=device_id)
        self._cache = default_directory() if cache is None else Path(cache)

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
