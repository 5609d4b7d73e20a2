"""Building of an engine from an ONNX graph: for TensorRT on its device, for TensorRT-RTX anywhere.

Both take the same path. Networks are strongly typed: their precision is that of the graph, so one
file means the same to TensorRT 10.3 and to 11, where the flags for float16 and int8 are gone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from ..bundle import ProfileSpec
from ..errors import BackendUnavailable, EngineError, InputError
from .profile import Shape, check_profile
from .tensorrt_api import Messages, collect, load_tensorrt, logger_of, one_line

_NO_TARGET = ("NONE", "CURRENT")


def check_targets(trt: Any, targets: Sequence[str]) -> None:
    """InputError for a target that this version does not know."""
    known = [name for name in trt.ComputeCapability.__members__ if name not in _NO_TARGET]
    for target in targets:
        if target not in known:
            raise InputError(
                f"unknown target {target!r}; this tensorrt-rtx builds for {', '.join(known)}"
            )


def set_targets(trt: Any, config: Any, targets: Sequence[str]) -> None:
    """Build for these; without any, for those that TensorRT chooses."""
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target), index)


@contextmanager
def forgotten_on_failure(trt: Any, builder: Any) -> Iterator[None]:
    """Keep a build that fails from touching the next one.

    TensorRT-RTX 1.7 compiles the next graph of the process for the failed build's target too: the
    engine gets another size, or is refused for the reason of the build before. Any build that
    succeeds, here of one layer, makes it forget.
    """
    try:
        yield
    except BaseException:
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        layer = network.add_identity(network.add_input("x", trt.float32, (1,)))
        network.mark_output(layer.get_output(0))
        builder.build_serialized_network(network, builder.create_builder_config())
        raise


WORKSPACE_BYTES = 4 << 30
"""A limit, not a reservation: 64 utterances of 2000 frames of every modality need 1.3 GB. It is the
same on every machine, since TensorRT's own limit, the device's memory, would change the engine."""


@dataclass(frozen=True)
class BuildOptions:
    """What the caller asked for; see `build_engine`."""

    flavour: str
    targets: tuple[str, ...]
    timing_cache: bytes | None
    workspace_bytes: int
    tf32: bool

    def check(self, trt: Any) -> None:
        """InputError for what the flavour lacks."""
        if self.workspace_bytes < 1:
            raise InputError(f"workspace_bytes is {self.workspace_bytes}; at least 1 was wanted")
        if self.rtx:
            if self.timing_cache is not None:
                raise InputError("tensorrt-rtx keeps no timing cache; leave timing_cache out")
            check_targets(trt, self.targets)
        elif self.targets:
            raise InputError(
                f"{self.flavour} builds for the GPU that it runs on; leave the targets "
                f"{', '.join(self.targets)} out, or build with tensorrt-rtx"
            )

    @property
    def rtx(self) -> bool:
        """Ahead of time, for GPUs that are not here."""
        return self.flavour == "tensorrt-rtx"

    def saved_cache(self, config: Any) -> bytes | None:
        """The timing cache after a build."""
        return None if self.rtx else bytes(config.get_timing_cache().serialize())


def make_config(trt: Any, builder: Any, options: BuildOptions, messages: Messages) -> Any:
    """The builder's configuration, but for profile and progress."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    # Names, types and precisions of layers stay in the engine, so that it can be asked what it is.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # On by default since Ampere, and then float32 answers differ from every other backend's.
    if options.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.rtx:
        set_targets(trt, config, options.targets)
    else:
        _set_timing_cache(config, options.timing_cache, messages)
    return config


def _set_timing_cache(config: Any, content: bytes | None, messages: Messages) -> None:
    """Go on with an earlier cache; one of another device or version is no use, but does no harm."""
    cache = config.create_timing_cache(content or b"")
    if cache is None or not config.set_timing_cache(cache, False):
        messages.warnings.append("the timing cache is of another device or version; starting anew")
        config.set_timing_cache(config.create_timing_cache(b""), False)


def parse_graph(trt: Any, builder: Any, graph: bytes, messages: Messages) -> Any:
    """The network of an ONNX file; EngineError with the node that TensorRT cannot take."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger_of(trt))
    if not parser.parse(graph):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        reason = "; ".join(dict.fromkeys(map(_describe, errors))) or messages.reason
        if all(error.node() < 0 for error in errors):
            raise EngineError(f"the file is not an ONNX graph ({reason}); export the bundle again")
        raise EngineError(
            f"TensorRT cannot read the graph: {reason}; export it in another precision or "
            "recurrence, or run it with another backend"
        )
    if network.num_outputs == 0:  # an empty file is a valid ONNX file
        raise EngineError("the graph has no outputs; export the bundle again")
    return network


def _describe(error: Any) -> str:
    text = one_line(error.desc())
    if error.node() < 0:
        return text
    name = error.node_name()
    quoted = f" {name!r}" if name else ""
    return f"node {error.node()}{quoted} ({error.node_operator()}): {text}"


def input_shapes(network: Any) -> dict[str, Shape]:
    """Shapes of the inputs, with the graph's own names for what is open."""
    found: dict[str, Shape] = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        found[tensor.name] = tuple(
            int(size) if size >= 0 else tensor.get_dimension_name(axis) or f"{tensor.name}.{axis}"
            for axis, size in enumerate(tensor.shape)
        )
    return found


Progress = Callable[[str], None]
"""Called with the name of each phase as it starts, several times a second at most."""


def monitor_of(trt: Any, messages: Messages, progress: Progress | None) -> Any:
    """A progress monitor that stops the build when the user interrupts or `progress` raises.

    What was raised is kept in `messages.interrupt`.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the module has no types
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, name: str, _parent: str | None, _steps: int) -> None:
            try:
                if progress is not None and messages.interrupt is None:
                    progress(name)
            except BaseException as error:
                messages.interrupt = error

        def step_complete(self, _name: str, _step: int) -> bool:
            return messages.interrupt is None

        def phase_finish(self, _name: str) -> None:
            pass

    return Monitor()


@dataclass(frozen=True)
class BuiltEngine:
    """An engine, and how it came about."""

    content: bytes
    """What a runtime of the same flavour and version loads."""
    flavour: str
    version: str
    """Of TensorRT."""
    targets: tuple[str, ...]
    """Compute capabilities it was asked for; empty for the device at hand, or for any (RTX)."""
    layers: int
    layer_types: dict[str, int]
    """How many layers of each type the graph became, before anything was fused."""
    parse_seconds: float
    build_seconds: float
    timing_cache: bytes | None
    """Makes the next build on this device faster; None where the flavour keeps none."""
    warnings: tuple[str, ...]
    """What TensorRT said and got over, each in one line."""


def build_engine(
    graph: bytes,
    profile: Mapping[str, ProfileSpec],
    *,
    flavour: str,
    targets: Sequence[str] = (),
    timing_cache: bytes | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    tf32: bool = False,
    progress: Progress | None = None,
) -> BuiltEngine:
    """Build an engine of `graph`, an ONNX file without external data, for the sizes of `profile`.

    flavour: `tensorrt` or `tensorrt-rtx`. targets: compute capabilities such as `SM86`, RTX only.
    timing_cache: of an earlier build, native only. workspace_bytes: most memory that a layer may
    use while it runs. tf32: let float32 products drop 13 bits. One build goes on at a time.

    Raises BackendUnavailable where the flavour cannot run, InputError for a profile that does not
    fit the graph or for options that the flavour lacks, EngineError where TensorRT refuses.
    """
    trt = load_tensorrt(flavour)
    options = BuildOptions(flavour, tuple(targets), timing_cache, workspace_bytes, tf32)
    options.check(trt)
    with collect() as messages:
        builder = _make_builder(trt, flavour, messages)
        started = time.perf_counter()
        network = parse_graph(trt, builder, graph, messages)
        parsed = time.perf_counter()
        check_profile(input_shapes(network), profile)
        monitor = monitor_of(trt, messages, progress)
        config = make_config(trt, builder, options, messages)
        config.progress_monitor = monitor
        _add_profile(builder, config, profile, messages)
        with forgotten_on_failure(trt, builder) if options.rtx else nullcontext():
            content = _build(builder, network, config, messages)
        built = time.perf_counter()
        kinds = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
        return BuiltEngine(
            content=content,
            flavour=flavour,
            version=str(trt.__version__),
            targets=options.targets,
            layers=kinds.total(),
            layer_types=dict(sorted(kinds.items())),
            parse_seconds=parsed - started,
            build_seconds=built - parsed,
            timing_cache=options.saved_cache(config),
            warnings=tuple(dict.fromkeys(messages.warnings + messages.errors)),
        )


def _make_builder(trt: Any, flavour: str, messages: Messages) -> Any:
    logger = logger_of(trt)
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # TensorRT's null pointer becomes a TypeError
        raise BackendUnavailable(
            f"{flavour} {trt.__version__} does not start here ({messages.reason}); it needs an "
            "NVIDIA GPU and a driver that fits"
        ) from error


def _add_profile(
    builder: Any, config: Any, profile: Mapping[str, ProfileSpec], messages: Messages
) -> None:
    if not profile:
        return
    shapes = builder.create_optimization_profile()
    for name, spec in profile.items():
        shapes.set_shape(name, spec.minimum, spec.optimum, spec.maximum)
    if config.add_optimization_profile(shapes) < 0:
        raise EngineError(f"TensorRT refuses the profile: {messages.reason}")


def _build(builder: Any, network: Any, config: Any, messages: Messages) -> bytes:
    said = messages.count
    engine = builder.build_serialized_network(network, config)
    if messages.interrupt is not None:
        raise messages.interrupt
    if messages.inconsistent:
        raise EngineError(
            f"the graph has no meaning for a size of the profile: {messages.inconsistent[0]}; "
            "raise the minimum to what the manifest says"
        )
    if engine is None:
        raise EngineError(f"TensorRT cannot build the graph: {messages.reason}; {_cure(messages)}")
    if messages.count == said:
        # Warnings decide whether an engine can be trusted, and another logger got them.
        raise EngineError(
            "another part of this process has given TensorRT its logger, so that warnings of the "
            "build are lost; build engines in a process of their own"
        )
    return bytes(engine)


def _cure(messages: Messages) -> str:
    if "OutOfMemory" in messages.reason or "workspace" in messages.reason:
        return "raise workspace_bytes, or lower the largest batch or length of the profile"
    return "export it in another precision or recurrence, or run it with another backend"
