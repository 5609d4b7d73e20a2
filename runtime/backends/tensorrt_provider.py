"""How ONNX Runtime's TensorRT provider is told to build, and where it keeps what it built."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ifmmin.runtime.manifest import GraphEntry, ProfileSpec

_FLAGS = {"fp16": "trt_fp16_enable", "int8-qdq": "trt_int8_enable"}
"""The provider's networks are weakly typed: without its flag a graph's type is an error."""


def tensorrt_options(
    device: int,
    entry: GraphEntry,
    profile: Mapping[str, ProfileSpec],
    folder: Path | None,
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
