"""TensorRT and TensorRT-RTX: one engine per graph, from the bundle, the cache or a build here."""

from __future__ import annotations

import time
from pathlib import Path

from ifmmin.runtime.backends.base import Backend, Loaded
from ifmmin.runtime.backends.cuda_memory import Cuda
from ifmmin.runtime.backends.engine_cache import DeviceKey, EngineCache
from ifmmin.runtime.backends.engine_loader import load_engine, make_runtime, typical_inputs
from ifmmin.runtime.backends.engine_progress import Progress
from ifmmin.runtime.backends.engine_runner import EngineRunner
from ifmmin.runtime.backends.engine_sources import EngineSources
from ifmmin.runtime.backends.tensorrt_module import load_tensorrt
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import EngineError
from ifmmin.runtime.manifest import GraphEntry


class Tensorrt(Backend):
    """Native TensorRT, 10.3 or later.

    device: number of the GPU. cache: directory for engines, default see `engine_cache`. progress:
    called with a line at each phase of a build, which may take minutes. cuda_graphs: record work
    for shapes that come again, see `engine_graphs`. tf32: let float32 products drop 13 bits.
    Raises BackendUnavailable.
    """

    name = "tensorrt"

    def __init__(
        self,
        device: int = 0,
        cache: str | Path | None = None,
        progress: Progress | None = None,
        *,
        cuda_graphs: bool = True,
        tf32: bool = False,
    ) -> None:
        self._cuda = Cuda(device)  # without a GPU nothing else is of interest
        self._trt = load_tensorrt(self.name)
        self._runtime = make_runtime(self._trt, self.name)
        self._cuda_graphs = cuda_graphs
        key = DeviceKey(
            flavour=self.name,
            version=str(self._trt.__version__),
            gpu=self._cuda.name,
            sm=self._cuda.sm,
        )
        self._sources = EngineSources(key, EngineCache(cache), tf32, progress)

    def open(self, bundle: Bundle, entry: GraphEntry) -> Loaded:
        """Load an engine of a graph: one of the bundle's for this GPU, else one built before.

        Without either, build it and keep it. The notes say which, and how long it took. Raises
        EngineError where TensorRT refuses to build or to load it.
        """
        self._cuda.use()
        notes: list[str] = []
        for candidate in self._sources.candidates(bundle, entry, notes):
            started = time.perf_counter()
            try:
                loaded = self._load(candidate.content, entry)
            except EngineError as error:
                if candidate.keep is not None:
                    raise  # nothing better can come
                notes.append(f"engine {candidate.origin} is not used: {error}")
                continue
            ready = f"loaded in {time.perf_counter() - started:.2f} s"
            kept = "" if candidate.keep is None else f" {candidate.keep()}"
            origin = f"engine {candidate.origin}{kept}, {ready}"
            return Loaded(loaded.run, entry, loaded.placement, (*notes, origin, *loaded.notes))
        raise AssertionError("the last candidate loads or raises")

    def _load(self, content: bytes, entry: GraphEntry) -> Loaded:
        engine, warnings = load_engine(self._runtime, content)
        names = [tensor.name for tensor in (*entry.inputs, *entry.outputs)]
        run = EngineRunner(self._trt, self._cuda, engine, names, cuda_graphs=self._cuda_graphs)
        run.warm_up(typical_inputs(run.inputs))
        return Loaded(run, entry, {"TensorRT": int(engine.num_layers)}, (*warnings, *run.notes))


class TensorrtRtx(Tensorrt):
    """TensorRT-RTX, for desktop GPUs since Turing; a bundle may hold engines for many of them."""

    name = "tensorrt-rtx"
