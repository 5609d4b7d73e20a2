"""How an engine is built: what may be asked for, and TensorRT's configuration of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ifmmin.runtime.backends.engine_targets import check_targets, set_targets
from ifmmin.runtime.backends.tensorrt_log import Messages
from ifmmin.runtime.errors import InputError

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
