"""Remembers which way to run a graph was found fastest on this device."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ifmmin.runtime.candidates import Candidate
from ifmmin.runtime.errors import OutputError
from ifmmin.runtime.modality import Pattern

_SCHEMA = 1


class _Record(msgspec.Struct, frozen=True):
    schema: int
    key: str
    choices: dict[str, Candidate]
    """By `SHAPE PATTERN`."""


def cache_directory(chosen: Path | None = None) -> Path:
    """Where engines and choices are kept: `chosen`, else the user's cache."""
    if chosen is not None:
        return chosen
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ifmmin"


class ChoiceCache:
    """One small file per combination of bundle, device, versions and what was asked for.

    A file that is not what it should be counts as absent: a choice is found again in a second.
    What cannot be written is not remembered, which is no error either: a robot's disk may be
    read-only.
    """

    def __init__(self, directory: Path | None, parts: Mapping[str, object]) -> None:
        self._key = json.dumps(parts, sort_keys=True, default=str)
        name = hashlib.sha256(self._key.encode()).hexdigest()[:32]
        self._path = cache_directory(directory) / "choices" / f"{name}.json"

    def read(self, shape: str, pattern: Pattern) -> Candidate | None:
        """What was chosen for a graph, if anything was."""
        return self._read().get(f"{shape} {pattern}")

    def write(self, shape: str, pattern: Pattern, candidate: Candidate) -> None:
        """Remember a choice beside the others."""
        choices = {**self._read(), f"{shape} {pattern}": candidate}
        from ifmmin.runtime.atomic import atomic_file

        content = msgspec.json.encode(_Record(_SCHEMA, self._key, choices))
        try:
            with atomic_file(self._path) as part:
                part.write_bytes(content)
        except OutputError:
            pass

    def _read(self) -> dict[str, Candidate]:
        try:
            record = msgspec.json.decode(self._path.read_bytes(), type=_Record)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}
        sound = record.schema == _SCHEMA and record.key == self._key
        return record.choices if sound else {}
