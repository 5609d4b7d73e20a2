"""Builds an engine from an ONNX graph: for TensorRT on its device, for TensorRT-RTX anywhere.

Both take the same path. Networks are strongly typed: their precision is that of the graph, so one
file means the same to TensorRT 10.3 and to 11, where the flags for float16 and int8 are gone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from ifmmin.runtime.backends.engine_config import WORKSPACE_BYTES, BuildOptions, make_config
from ifmmin.runtime.backends.engine_network import input_shapes, parse_graph
from ifmmin.runtime.backends.engine_profile import check_profile
from ifmmin.runtime.backends.engine_progress import Progress, monitor_of
from ifmmin.runtime.backends.engine_targets import forgotten_on_failure
from ifmmin.runtime.backends.tensorrt_log import Messages, collect, logger_of
from ifmmin.runtime.backends.tensorrt_module import load_tensorrt
from ifmmin.runtime.errors import BackendUnavailable, EngineError
from ifmmin.runtime.manifest import ProfileSpec


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
