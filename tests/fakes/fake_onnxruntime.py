"""ONNX Runtime on a machine with a GPU, as far as its backends look at it; it computes zeros.

Shared libraries of Linux hold nothing but names of others.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))


class FakeOnnxRuntime:
    """The module. `nodes` says which operators each provider gets; None: it does not tell."""

    __version__ = "1.31.1"
    cuda_version = "13.0"

    def __init__(self, folder: Path, nodes: Mapping[str, Sequence[str]] | None = None) -> None:
        self.__file__ = str(folder / "__init__.py")
        self.needs: dict[str, list[str]] = {"cuda": [], "tensorrt": []}
        self.nodes = nodes
        self.compiled_in = [TENSORRT, CUDA, CPU]
        self.falls_back = False
        self.failures: list[Exception] = []
        """What sessions raise, one after the other, before they work."""
        self.run_failure: Exception | None = None
        self.sessions: list[FakeSession] = []
        self.requests: list[list[Any]] = []

    def install(self) -> FakeOnnxRuntime:
        """Write its provider libraries."""
        for name, needs in self.needs.items():
            path = Path(self.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"
            write_library(path, needs)
        return self

    def get_available_providers(self) -> list[str]:
        return self.compiled_in

    def preload_dlls(self) -> None:
        print("Failed to load libcublasLt.so.13")  # noqa: T201 - as the real one does

    def SessionOptions(self) -> Any:
        return SimpleNamespace(add_session_config_entry=lambda key, value: None)

    def InferenceSession(
        self, graph: bytes, options: Any, providers: list[Any], enable_fallback: bool
    ) -> FakeSession:
        assert not enable_fallback
        self.requests.append(providers)
        if self.failures:
            raise self.failures.pop(0)
        session = FakeSession(self, [p if isinstance(p, str) else p[0] for p in providers])
        self.sessions.append(session)
        return session


class FakeSession:
    def __init__(self, module: FakeOnnxRuntime, providers: list[str]) -> None:
        self._module = module
        self._providers = [CPU] if module.falls_back else [*providers, CPU]
        self.inputs: list[Mapping[str, Any]] = []
        if module.nodes is not None:
            self.get_provider_graph_assignment_info = self._info

    def get_providers(self) -> list[str]:
        return self._providers

    def _info(self) -> list[Any]:
        assert self._module.nodes is not None
        return [
            SimpleNamespace(
                ep_name=name,
                get_nodes=lambda types=types: [SimpleNamespace(op_type=t) for t in types],
            )
            for name, types in self._module.nodes.items()
        ]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="logits", shape=["B", 4])]

    def run(self, names: None, inputs: Mapping[str, Any]) -> list[Any]:
        if self._module.run_failure is not None:
            raise self._module.run_failure
        self.inputs.append(inputs)
        return [np.zeros((1, 4), np.float32)]


def fake_driver(version: int = 13000, start: int = 0, gpus: Sequence[str] = ("Orin",)) -> Any:
    """The driver's library. version: 1000 x major + 10 x minor. start: what `cuInit` says."""

    def put(pointer: Any, value: Any) -> int:
        pointer._obj.value = value
        return 0

    def name(buffer: Any, size: int, device: Any) -> int:
        buffer.value = gpus[int(device.value)].encode()
        return 0

    return SimpleNamespace(
        cuDriverGetVersion=lambda pointer: put(pointer, version), cuInit=lambda flags: start,
        cuDeviceGetCount=lambda pointer: put(pointer, len(gpus)), cuDeviceGet=put,
        cuDeviceGetName=name, cuDeviceTotalMem_v2=lambda pointer, device: put(pointer, 1 << 33),
        cuDeviceGetAttribute=lambda pointer, which, _: put(pointer, {75: 8, 76: 7}[which]),
        cuGetErrorName=lambda code, pointer: put(pointer, b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
    )  # fmt: skip


_ADDRESS = 0x10000
"""Where the file would lie in memory: anywhere but at its offset."""


def write_library(path: Path, needs: Sequence[str], runpath: str = "") -> Path:
    """Write a library that needs others, and looks for them in `runpath`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    strings, entries = b"\0", []
    for tag, text in [*((1, name) for name in needs), *([(29, runpath)] if runpath else [])]:
        entries.append((tag, len(strings)))
        strings += text.encode() + b"\0"
    begin = 64 + 2 * 56
    table = begin + 16 * (len(entries) + 2)
    entries += [(5, _ADDRESS + table), (0, 0)]
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    size = table + len(strings)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, _ADDRESS, _ADDRESS, size, size, 0x1000)
    where = (begin, _ADDRESS + begin, _ADDRESS + begin, len(dynamic), len(dynamic), 8)
    path.write_bytes(header + load + struct.pack("<IIQQQQQQ", 2, 4, *where) + dynamic + strings)
    return path


def real_library() -> Path:
    """An extension module of numpy, which is there wherever the runtime is."""
    module = sys.modules.get("numpy._core._multiarray_umath")  # since numpy 2
    module = module or sys.modules["numpy.core._multiarray_umath"]
    assert module.__file__ is not None
    return Path(module.__file__)
