"""From the bytes of an engine to an engine of TensorRT that can be run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.backends.engine_tensors import EngineTensor
from ifmmin.runtime.backends.tensorrt_log import Messages, collect, logger_of
from ifmmin.runtime.errors import BackendUnavailable, EngineError


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
