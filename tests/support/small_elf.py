"""Shared libraries of Linux that hold nothing but names of others, and a real one."""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from pathlib import Path

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
