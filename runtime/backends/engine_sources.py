"""Where the engine of a graph may come from: the bundle, the cache, or a build on this device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ifmmin.runtime.backends.engine_builder import BuiltEngine, build_engine
from ifmmin.runtime.backends.engine_cache import DeviceKey, EngineCache, EngineKey
from ifmmin.runtime.backends.engine_profile import BATCH, STREAMS, profile_of
from ifmmin.runtime.backends.engine_progress import Progress
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import BundleError, OutputError
from ifmmin.runtime.manifest import EngineEntry, GraphEntry, ProfileSpec


@dataclass(frozen=True)
class Candidate:
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

    def candidates(
        self, bundle: Bundle, entry: GraphEntry, notes: list[str]
    ) -> Iterator[Candidate]:
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
            yield Candidate(kept.content, str(self.cache.path(key)))
        elif kept.refusal:
            notes.append(f"{kept.refusal}; building it anew")
        built = self._build(graph, entry, key.profile, notes)
        yield Candidate(built.content, "built here", lambda: self._keep(key, built))

    def _shipped(self, bundle: Bundle, entry: GraphEntry, notes: list[str]) -> Iterator[Candidate]:
        for engine in bundle.manifest.engines:
            if self._suits(engine, entry):
                try:
                    content = bundle.graph(engine)
                except BundleError as error:
                    notes.append(f"{engine.file} of the bundle is not used: {error}")
                    continue
                yield Candidate(content, f"{engine.file} of the bundle")

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
