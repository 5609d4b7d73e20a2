"""A repository of models for Triton: one per pattern, a router, and streams."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime

from ifmmin.runtime.bundle import MANIFEST_NAME, Bundle
from ifmmin.runtime.errors import BundleError, OutputError
from ifmmin.runtime.files import atomic_directory
from ifmmin.runtime.modality import Pattern

from .config import Config, Word, require_fitting, tensors_of, to_text

Device = Literal["cpu", "gpu", "tensorrt"]
_HERE = Path(__file__).parent
_BATCH, _DELAY_US = 32, 500
_SEQUENCES, _IDLE_US = 256, 300_000_000
_FRAMES = 50
"""Of a warm-up."""
_LENGTHS = "lengths"
"""The file that says so."""
_STREAM_SHAPES = ("step", "summary", "head")


def write_repository(bundle: Bundle, out: Path, device: Device = "cpu") -> list[str]:
    """Write a repository; the names of its models.

    device: what ONNX Runtime's backend runs graphs on; `tensorrt` builds engines of them when
    Triton loads it. Pattern models are the bundle's graphs, unmodified: for batches where there are
    such, else one utterance at a time. Raises BundleError, OutputError.
    """
    if not bundle.patterns:
        raise BundleError(f"{bundle.directory} has no graphs of whole utterances; export some")
    router = out / "emotion" / "config.pbtxt"
    if out.is_dir() and any(out.iterdir()) and not router.is_file():
        raise OutputError(f"{out} holds other things; name a new directory")
    with atomic_directory(out) as folder:
        batched = [str(p) for p in bundle.patterns if bundle.has("throughput", p)]
        for pattern in bundle.patterns:
            _write_pattern(bundle, pattern, folder, device)
        _write_model(folder, _router(bundle, batched), _HERE / "router_model.py")
        names = [*map(str, bundle.patterns), "emotion"]
        if bundle.stream_patterns:
            _write_model(folder, _stream(bundle), _HERE / "stream_model.py")
            _copy_bundle(bundle, folder / "stream" / "1" / "bundle")
            names.append("stream")
    return names


def _write_pattern(bundle: Bundle, pattern: Pattern, folder: Path, device: Device) -> None:
    batched = bundle.has("throughput", pattern)
    entry = bundle.entry(pattern, shape="throughput" if batched else "latency")
    content = bundle.graph(entry)
    graph = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    tensors = tensors_of(graph, batched)
    kind = Word("KIND_CPU" if device == "cpu" else "KIND_GPU")
    config: dict[str, Any] = {
        "name": str(pattern), "backend": "onnxruntime", "max_batch_size": _BATCH * batched,
        **tensors,
        "instance_group": [{"count": 1, "kind": kind}],
        "model_warmup": [_warm_up(tensors["input"], batched)],
        "parameters": [
            {"key": "intra_op_thread_count", "value": {"string_value": "1"}},
            {"key": "inter_op_thread_count", "value": {"string_value": "1"}},
        ],
    }  # fmt: skip
    if batched:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": _DELAY_US}
    if device == "tensorrt":
        accelerator = {"gpu_execution_accelerator": [{"name": "tensorrt"}]}
        config["optimization"] = {"execution_accelerators": accelerator}
    text = to_text(config)
    require_fitting(text, graph, batched)
    place = folder / str(pattern) / "1"
    place.mkdir(parents=True)
    (place / "model.onnx").write_bytes(content)
    (place.parent / "config.pbtxt").write_text(text)
    if batched:
        (place.parent / "warmup").mkdir()
        (place.parent / "warmup" / _LENGTHS).write_bytes(np.array([_FRAMES], "<i8").tobytes())


def _warm_up(inputs: list[dict[str, Any]], batched: bool) -> Config:
    filled = []
    for one in inputs:
        length = one["name"].endswith("_lengths")
        content = {"input_data_file": _LENGTHS} if length else {"zero_data": True}
        dims = [1] if length else [_FRAMES, one["dims"][-1]]
        value = {"data_type": one["data_type"], "dims": dims, **content}
        filled.append({"key": one["name"], "value": value})
    return {"name": "frames of zeros", "batch_size": int(batched), "inputs": filled}


def _outputs(bundle: Bundle) -> list[dict[str, Any]]:
    classes = len(bundle.manifest.labels)
    return [
        {"name": "probabilities", "data_type": Word("TYPE_FP32"), "dims": [classes]},
        {"name": "logits", "data_type": Word("TYPE_FP32"), "dims": [classes]},
        {"name": "label", "data_type": Word("TYPE_STRING"), "dims": [1]},
    ]


def _features(bundle: Bundle) -> list[dict[str, Any]]:
    return [
        {"name": m.value, "data_type": Word("TYPE_FP32"), "dims": [-1, spec.dim], "optional": True}
        for m, spec in bundle.manifest.modalities.items()
    ]


def _router(bundle: Bundle, batched: list[str]) -> dict[str, Any]:
    told = {
        "labels": bundle.manifest.labels, "patterns": list(map(str, bundle.patterns)),
        "batched": batched,
    }  # fmt: skip
    return {
        "name": "emotion", "backend": "python", "max_batch_size": 0,
        "input": _features(bundle), "output": _outputs(bundle),
        "instance_group": [{"count": 1, "kind": Word("KIND_CPU")}],
        "parameters": [
            {"key": name, "value": {"string_value": json.dumps(value)}}
            for name, value in told.items()
        ],
    }  # fmt: skip


def _stream(bundle: Bundle) -> dict[str, Any]:
    flags = [
        {"name": name, "control": [
            {"kind": Word(f"CONTROL_SEQUENCE_{name}"), "int32_false_true": [0, 1]}]}
        for name in ("START", "END", "READY")
    ]  # fmt: skip
    identity = {"kind": Word("CONTROL_SEQUENCE_CORRID"), "data_type": Word("TYPE_UINT64")}
    return {
        "name": "stream", "backend": "python", "max_batch_size": 1,
        "input": _features(bundle), "output": _outputs(bundle),
        "instance_group": [{"count": 1, "kind": Word("KIND_CPU")}],
        "sequence_batching": {
            "max_sequence_idle_microseconds": _IDLE_US,
            "oldest": {"max_candidate_sequences": _SEQUENCES},
            "control_input": [*flags, {"name": "CORRID", "control": [identity]}],
        },
    }  # fmt: skip


def _write_model(folder: Path, config: dict[str, Any], code: Path) -> None:
    place = folder / config["name"] / "1"
    place.mkdir(parents=True)
    (place.parent / "config.pbtxt").write_text(to_text(config))
    shutil.copyfile(code, place / "model.py")


def _copy_bundle(bundle: Bundle, place: Path) -> None:
    """What streams need of a bundle."""
    place.mkdir()
    for name in (MANIFEST_NAME, bundle.manifest.golden.file):
        shutil.copyfile(bundle.directory / name, place / name)
    for entry in bundle.manifest.graphs:
        if entry.shape in _STREAM_SHAPES:
            (place / entry.file).write_bytes(bundle.read(entry))
