"""Which libraries a shared library needs that are not here, without loading the library itself.

A provider of ONNX Runtime must be loaded by ONNX Runtime, which prints what is missing and goes on
without it. Asking first gives the names, and nothing is printed.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"\x7fELF\x02\x01"
"""Of 64 bits, little end first: every Linux on x86-64 and arm64."""
_LOAD, _DYNAMIC = 1, 2
_END, _NEEDED, _STRINGS, _RPATH, _RUNPATH = 0, 1, 5, 15, 29


@dataclass(frozen=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def missing_libraries(path: Path, places: Sequence[Path] = ()) -> list[str]:
    """Names of what the library at `path` needs and the loader does not find, in its order.

    What is found is loaded, as it will be anyway. places: directories to look in besides those of
    the loader. Empty where `path` is no library of Linux.
    """
    try:
        names, directories = _dependencies(path)
    except (OSError, ValueError, struct.error):
        return []
    return [name for name in names if not can_load(name, [*directories, *places])]


def can_load(name: str, places: Sequence[Path] = ()) -> bool:
    """Load a library by its name from the first place that has it, else from the loader's."""
    for candidate in (*(str(place / name) for place in places if (place / name).is_file()), name):
        try:
            ctypes.CDLL(candidate)
        except OSError:
            continue
        return True
    return False


def _dependencies(path: Path) -> tuple[list[str], list[Path]]:
    """Names of needed libraries, and directories in which this one looks for them."""
    with path.open("rb") as file:
        segments = list(_segments(file))
        entries = list(_dynamic(file, segments))
        start = next((value for tag, value in entries if tag == _STRINGS), None)
        if start is None:
            return [], []

        def text(offset: int) -> str:
            file.seek(_offset(segments, start + offset))
            return file.read(4096).split(b"\0", 1)[0].decode()

        names = [text(value) for tag, value in entries if tag == _NEEDED]
        paths = [text(value) for tag, value in entries if tag in (_RPATH, _RUNPATH)]
    origin = str(path.resolve().parent)
    found = [part for group in paths for part in group.split(":") if part]
    return names, [
        Path(part.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)) for part in found
    ]


def _segments(file: BinaryIO) -> Iterator[_Segment]:
    header = file.read(64)
    if not header.startswith(_MAGIC):
        raise ValueError("not an ELF file of 64 bits")
    (table,) = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    for index in range(count):
        file.seek(table + index * size)
        kind, _, offset, address, _, length = struct.unpack("<IIQQQQ", file.read(40))
        yield _Segment(kind, offset, address, length)


def _dynamic(file: BinaryIO, segments: Sequence[_Segment]) -> Iterator[tuple[int, int]]:
    """Tags and values of the dynamic section."""
    for segment in segments:
        if segment.kind == _DYNAMIC:
            file.seek(segment.offset)
            for tag, value in struct.iter_unpack("<QQ", file.read(segment.size // 16 * 16)):
                if tag == _END:
                    return
                yield tag, value


def _offset(segments: Sequence[_Segment], address: int) -> int:
    """Where in the file an address lies."""
    for segment in segments:
        if segment.kind == _LOAD and segment.address <= address < segment.address + segment.size:
            return segment.offset + address - segment.address
    raise ValueError(f"no segment holds the address {address:#x}")
