"""Specification of a front-end: what makes the features of a modality, told apart by its content.

It stands in a bundle's manifest, in the header of a checkpoint, and as `frontend.json` in a folder
of its own, beside its files.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ..errors import BundleError
from ..files import JSON_ERRORS, read_hashed, read_regular

FRONT_END_NAME = "frontend.json"
_SPEC_BYTES = 1 << 20
_FILE_BYTES = 1 << 31


def require_file_name(name: str) -> None:
    """ValueError unless it is a plain name, which leads to nowhere else."""
    if not name.isprintable() or "/" in name or "\\" in name or name in ("", ".", ".."):
        raise ValueError(f"got the file name {name!r}, wanted one inside of the bundle")


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a front-end."""

    file: str
    sha256: str
    size: int = msgspec.field(name="bytes")

    def __post_init__(self) -> None:
        require_file_name(self.file)

    @classmethod
    def of(cls, file: str, content: bytes) -> FileEntry:
        """The entry of a file with that content."""
        return cls(file=file, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


class FrontEndSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a front-end is: of the same kind, settings and files come the same features."""

    kind: str
    """Which code makes the features, such as `ge2e`."""
    version: int
    """Of that code: raised where the same signal gives other features."""
    dim: int
    """Features per frame."""
    frame_rate: float | None
    """Frames a second; None where frames have no fixed rate (words)."""
    features: str
    """What the numbers are, for people."""
    settings: dict[str, Any] = {}
    """Sample rate, hop, rules of level and silence ..., as the kind defines them."""
    files: dict[str, FileEntry] = {}
    """By role, such as `graph` or `vocabulary`."""
    licence: str | None = None
    """Of the files."""
    tolerance: float = 1e-3
    """By how much of their norm features may differ on another processor; of graphs in 8 bits more.
    What is further off is another front-end."""

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z][a-z0-9_]{0,31}", self.kind):
            raise ValueError(f"got the kind {self.kind!r} of a front-end, wanted a lower-case word")
        if not (1 <= self.dim <= 1_000_000 and 0 <= self.version <= 1_000_000):
            raise ValueError(f"got dim {self.dim} and version {self.version} of {self.kind}")
        for name, value in (("frame_rate", self.frame_rate), ("tolerance", self.tolerance)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"got {name} {value}, wanted a number above 0")

    @property
    def identity(self) -> str:
        """Kind, version and a digest of all that the features depend on: `ge2e-1-3f2a9c81d0ab`."""
        parts = (self.dim, self.frame_rate, self.settings,
                 {role: entry.sha256 for role, entry in self.files.items()})  # fmt: skip
        digest = hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()
        return f"{self.kind}-{self.version}-{digest[:12]}"


Read = Callable[[FileEntry], bytes]
"""Gives the content of a front-end's file, whose size and hash were found right."""


def reader_of(directory: Path) -> Read:
    """Reads files that lie in a directory; BundleError where one is absent or damaged."""
    return partial(_read, directory)


def _read(directory: Path, entry: FileEntry) -> bytes:
    return read_hashed(directory / entry.file, entry.sha256, entry.size, BundleError, _FILE_BYTES)


def read_folder(directory: str | Path) -> tuple[FrontEndSpec, Read]:
    """The front-end of a folder; BundleError where it is none."""
    directory = Path(directory)
    path = directory / FRONT_END_NAME
    try:
        content = read_regular(path, BundleError, _SPEC_BYTES)
        spec = msgspec.json.decode(content, type=FrontEndSpec)
    except OSError as error:
        raise BundleError(
            f"{directory} is no folder of a front-end ({FRONT_END_NAME}: {error.strerror}); make "
            "one with ifmmin-bundle frontend"
        ) from error
    except JSON_ERRORS as error:
        raise BundleError(f"{path} is damaged ({error}); make the front-end again") from error
    return spec, reader_of(directory)


def folder_files(spec: FrontEndSpec, contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a folder by name: the specification, and per role what it names."""
    text = msgspec.json.format(msgspec.json.encode(spec), indent=2) + b"\n"
    return {FRONT_END_NAME: text, **{spec.files[role].file: c for role, c in contents.items()}}
