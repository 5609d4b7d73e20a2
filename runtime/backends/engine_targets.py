"""Targets of TensorRT-RTX: the compute capabilities for which it builds without a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ifmmin.runtime.errors import InputError

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
