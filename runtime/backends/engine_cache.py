"""Engines that were built on this device, kept for the next start.

A file has one line of magic and hash, one of JSON, then the engine. The hash covers all that
follows it, and the JSON says what the engine was built from, by what and for what: a file that is
cut off, changed or of something else is refused with the reason, and the engine is built anew. This
finds accidents; whoever may write to the directory may also write a matching hash.

Files appear whole, by a rename. Two processes that build the same engine both keep it; the last one
stays, and any reader finds a whole one. When they become too many, those unused for longest go. A
file's time of modification says when it was used last: reading does not set it, and many systems do
not record times of access. Whoever has loaded a file that goes does not need it any more; the next
one to look for it builds it again.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..bundle import ProfileSpec
from ..errors import EngineError
from ..files import atomic_file

_MAGIC = b"ifmmin-engine-1 "
_DIGEST = 64
_BUILD = 1
"""Raise it when the builder's settings change, so that engines of before are built anew."""
LIMIT_BYTES = 2 << 30
"""All engines of a bundle in one precision take about a tenth of it."""
_NAME = re.compile(r"[\w.-]+-[0-9a-f]{20}\.(engine|timing)")
_PART = re.compile(rf"\.{_NAME.pattern}\.\w+\.part")
"""What a process leaves that is killed while it writes; see `atomic_file`."""
_ABANDONED = 3600
"""Seconds without a write after which nobody writes to such a file any more."""


class DeviceKey(msgspec.Struct, frozen=True, kw_only=True):
    """What a timing cache depends on."""

    flavour: str
    version: str
    """Of TensorRT."""
    gpu: str
    sm: str
    """Compute capability, e.g. `SM87`."""


class EngineKey(msgspec.Struct, frozen=True, kw_only=True):
    """All that an engine depends on."""

    device: DeviceKey
    graph_sha256: str
    precision: str
    profile: dict[str, ProfileSpec]
    tf32: bool
    build: int = _BUILD


Key = EngineKey | DeviceKey


@dataclass(frozen=True)
class Kept:
    """What the cache has of a key: the content, or why it has none."""

    content: bytes | None
    refusal: str = ""
    """Empty where there simply is no file."""


class EngineCache:
    """A directory of engines and of TensorRT's timing caches; made when something is kept.

    limit: bytes that it may hold, beside what was kept last.
    """

    def __init__(self, directory: str | Path, *, limit: int = LIMIT_BYTES) -> None:
        self.directory = Path(directory)
        self._limit = limit

    def path(self, key: Key) -> Path:
        """Where the content of a key lies."""
        device = key.device if isinstance(key, EngineKey) else key
        kind = "engine" if isinstance(key, EngineKey) else "timing"
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", device.gpu).strip("-")
        digest = hashlib.sha256(_json(key)).hexdigest()[:20]
        return self.directory / f"{device.flavour}-{device.version}-{gpu}-{digest}.{kind}"

    def load(self, key: Key) -> Kept:
        """The content kept for a key, if its file is whole and is this key's."""
        path = self.path(key)
        try:
            file = path.read_bytes()
        except FileNotFoundError:
            return Kept(None)
        except OSError as error:
            return Kept(None, f"{path} cannot be read ({error.strerror})")
        try:
            content = _open(file, key)
        except EngineError as error:
            return Kept(None, f"{path} {error}")
        with suppress(OSError):  # nobody may write to it, or it is gone by now
            os.utime(path)
        return Kept(content)

    def keep(self, key: Key, content: bytes) -> Path:
        """Keep the content in place of what there was; OutputError where it cannot be written."""
        body = _json(key) + b"\n" + content
        digest = hashlib.sha256(body).hexdigest().encode()
        path = self.path(key)
        with atomic_file(path) as part:
            part.write_bytes(_MAGIC + digest + b"\n" + body)
        with suppress(OSError):
            self._prune(path)
        return path

    def _prune(self, newest: Path) -> None:
        """Remove what was unused for longest until the limit is kept, but not `newest`."""
        found = []
        for path in self.directory.iterdir():
            with suppress(OSError):  # another process may have removed it
                status = path.lstat()
                if _NAME.fullmatch(path.name):
                    found.append((status.st_mtime_ns, path, status.st_size))
                elif _PART.fullmatch(path.name) and status.st_mtime < time.time() - _ABANDONED:
                    path.unlink()
        total = sum(size for _, _, size in found)
        for _, path, size in sorted(found):
            if total <= self._limit:
                return
            if path != newest:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                    total -= size


def _open(file: bytes, key: Key) -> bytes:
    start = len(_MAGIC) + _DIGEST + 1
    if not file.startswith(_MAGIC) or file[start - 1 : start] != b"\n":
        raise EngineError("is not an engine that this version has kept")
    digest, body = file[len(_MAGIC) : start - 1], file[start:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise EngineError("is cut off or changed: its hash does not fit")
    wanted, separator, content = body.partition(b"\n")
    if not separator or wanted != _json(key):
        raise EngineError("is of another graph, device, version or profile")
    return content


def _json(key: Key) -> bytes:
    return msgspec.json.encode(key, order="sorted")
