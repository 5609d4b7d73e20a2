"""TensorRT and TensorRT-RTX: one engine per graph, from the bundle, the cache or a build here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle, EngineEntry, GraphEntry, ProfileSpec
from ..errors import BackendUnavailable, BundleError, EngineError, OutputError
from ..files import cache_dir
from .base import Backend, LoadedGraph
from .cuda import Cuda
from .engine_cache import DeviceKey, EngineCache, EngineKey
from .profile import BATCH, STREAMS, profile_of
from .tensorrt_api import Messages, collect, load_tensorrt, logger_of
from .tensorrt_buffers import EngineTensor
from .tensorrt_build import BuiltEngine, Progress, build_engine
from .tensorrt_engine import EngineRunner


def make_runtime(trt: Any, flavour: str) -> Any:
    """What loads engines; BackendUnavailable where TensorRT does not start."""
    with collect() as messages:
        try:
            return trt.Runtime(logger_of(trt))
        except (TypeError, RuntimeError) as error:  # TensorRT's null pointer becomes a TypeError
            raise BackendUnavailable(
                f"{flavour} {trt.__version__} does not start here ({messages.reason}); it needs "
                "an NVIDIA GPU and a driver that fits"
            ) from error


def load_engine(runtime: Any, content: bytes) -> tuple[Any, tuple[str, ...]]:
    """The engine, and what TensorRT warned of; EngineError unless it loads without an error.

    The code that an engine may carry for other versions is not let run: `engine_host_code_allowed`
    stays off, and engines for one version and GPU do not need it.
    """
    with collect() as messages:
        engine = _deserialise(runtime, content, messages)
        if engine is None or messages.errors:
            raise EngineError(f"TensorRT does not load the engine: {messages.reason}")
        return engine, tuple(dict.fromkeys(messages.warnings))


def _deserialise(runtime: Any, content: bytes, messages: Messages) -> Any:
    try:
        return runtime.deserialize_cuda_engine(content)
    except (TypeError, RuntimeError) as error:
        messages.errors.append(" ".join(str(error).split()))
        return None


def typical_inputs(inputs: list[EngineTensor]) -> Mapping[str, NDArray[Any]]:
    """Made-up inputs of the sizes that an engine is fast for: noise, and full lengths."""
    rng = np.random.default_rng(0)
    frames = {tensor.name: tensor.optimum for tensor in inputs}
    made: dict[str, NDArray[Any]] = {}
    for tensor in inputs:
        if np.issubdtype(tensor.dtype, np.floating):
            made[tensor.name] = rng.standard_normal(tensor.optimum).astype(tensor.dtype)
        else:  # `<modality>_lengths` (B,) beside the frames (B, T, D)
            full = frames.get(tensor.name.removesuffix("_lengths"), ())
            made[tensor.name] = np.full(
                tensor.optimum, full[1] if len(full) > 1 else 1, tensor.dtype
            )
    return made


@dataclass(frozen=True)
class EngineBlob:
    """An engine that may load."""

    content: bytes
    origin: str
    keep: Callable[[], str] | None = None
    """Of an engine that was built just now: to be called once it has loaded; says where it was
    kept."""


@dataclass(frozen=True)
class EngineSources:
    """Looks for engines for one device, best first."""

    device: DeviceKey
    cache: EngineCache
    tf32: bool
    progress: Progress | None

    def blobs(self, bundle: Bundle, entry: GraphEntry, notes: list[str]) -> Iterator[EngineBlob]:
        """Engines of a graph. The last one is built, when it is asked for.

        notes: gets what is worth telling. Raises EngineError where TensorRT cannot build it.
        """
        graph = bundle.graph(entry)
        yield from self._shipped(bundle, entry, notes)
        batch = BATCH if entry.shape in ("latency", "throughput") else STREAMS
        key = EngineKey(
            device=self.device,
            graph_sha256=entry.sha256,
            precision=entry.precision,
            profile=profile_of(entry, bundle.manifest.modalities, batch=batch),
            tf32=self.tf32,
        )
        kept = self.cache.load(key)
        if kept.content is not None:
            yield EngineBlob(kept.content, str(self.cache.path(key)))
        elif kept.refusal:
            notes.append(f"{kept.refusal}; building it anew")
        built = self._build(graph, entry, key.profile, notes)
        yield EngineBlob(built.content, "built here", lambda: self._keep(key, built))

    def _shipped(self, bundle: Bundle, entry: GraphEntry, notes: list[str]) -> Iterator[EngineBlob]:
        for engine in bundle.manifest.engines:
            if self._suits(engine, entry):
                try:
                    content = bundle.graph(engine)
                except BundleError as error:
                    notes.append(f"{engine.file} of the bundle is not used: {error}")
                    continue
                yield EngineBlob(content, f"{engine.file} of the bundle")

    def _suits(self, engine: EngineEntry, entry: GraphEntry) -> bool:
        return (
            (engine.engine, engine.version) == (self.device.flavour, self.device.version)
            and (engine.graph, engine.graph_sha256) == (entry.file, entry.sha256)
            and (not engine.targets or self.device.sm in engine.targets)
        )

    def _build(
        self, graph: bytes, entry: GraphEntry, profile: dict[str, ProfileSpec], notes: list[str]
    ) -> BuiltEngine:
        def show(phase: str) -> None:
            if self.progress is not None:
                self.progress(f"{entry.file}: {phase}")

        timing = None
        if self.device.flavour == "tensorrt":
            kept = self.cache.load(self.device)
            timing = kept.content
            if kept.refusal:
                notes.append(f"{kept.refusal}; timing anew")
        built = build_engine(
            graph,
            profile,
            flavour=self.device.flavour,
            timing_cache=timing,
            tf32=self.tf32,
            progress=show,
        )
        notes.extend(built.warnings)
        return built

    def _keep(self, key: EngineKey, built: BuiltEngine) -> str:
        seconds = f"in {built.parse_seconds + built.build_seconds:.1f} s"
        try:
            path = self.cache.keep(key, built.content)
            if built.timing_cache is not None:
                self.cache.keep(self.device, built.timing_cache)
        except OutputError as error:  # it runs all the same, and is built again at the next start
            return f"{seconds}, not kept: {error}"
        return f"{seconds}, kept as {path}"


class Tensorrt(Backend):
    """Native TensorRT, 10.3 or later.

    device: number of the GPU. cache: root of what is kept, by default the user's cache. progress:
    called with a line at each phase of a build, which may take minutes. cuda_graphs: record work
    for shapes that come again, see `tensorrt_engine`. tf32: let float32 products drop 13 bits.
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
        self._sources = EngineSources(
            key, EngineCache(cache_dir(cache) / "engines"), tf32, progress
        )

    def open(self, bundle: Bundle, entry: GraphEntry) -> LoadedGraph:
        """Load an engine of a graph: one of the bundle's for this GPU, else one built before.

        Without either, build it and keep it. The notes say which, and how long it took. Raises
        EngineError where TensorRT refuses to build or to load it.
        """
        self._cuda.use()
        notes: list[str] = []
        for blob in self._sources.blobs(bundle, entry, notes):
            started = time.perf_counter()
            try:
                loaded = self._load(blob.content, entry)
            except EngineError as error:
                if blob.keep is not None:
                    raise  # nothing better can come
                notes.append(f"engine {blob.origin} is not used: {error}")
                continue
            ready = f"loaded in {time.perf_counter() - started:.2f} s"
            kept = "" if blob.keep is None else f" {blob.keep()}"
            origin = f"engine {blob.origin}{kept}, {ready}"
            return LoadedGraph(loaded.run, entry, loaded.placement, (*notes, origin, *loaded.notes))
        raise AssertionError("the last candidate loads or raises")

    def _load(self, content: bytes, entry: GraphEntry) -> LoadedGraph:
        engine, warnings = load_engine(self._runtime, content)
        names = [tensor.name for tensor in (*entry.inputs, *entry.outputs)]
        run = EngineRunner(self._trt, self._cuda, engine, names, cuda_graphs=self._cuda_graphs)
        run.warm_up(typical_inputs(run.inputs))
        return LoadedGraph(
            run, entry, {"TensorRT": int(engine.num_layers)}, (*warnings, *run.notes)
        )


class TensorrtRtx(Tensorrt):
    """TensorRT-RTX, for desktop GPUs since Turing; a bundle may hold engines for many of them."""

    name = "tensorrt-rtx"
