"""The record of a run as a file: JSON, written whole, read with a word on what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ifmmin.benchmarks.record import SCHEMA, Report
from ifmmin.runtime.atomic import atomic_file
from ifmmin.runtime.errors import InputError


def write_report(report: Report, path: Path) -> None:
    """Write the record whole or not at all. Raises OutputError where that cannot be."""
    content = msgspec.json.encode(report, enc_hook=_plain)
    with atomic_file(path) as part:
        part.write_bytes(content + b"\n")


def read_report(path: Path) -> Report:
    """Read a record. Raises InputError for a file that is absent, damaged, newer or no record."""
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read {path}: {reason}; give a report of ifmmin-bench") from error
    try:
        head = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not whole JSON ({error}); give a report that ifmmin-bench wrote"
        ) from error
    _require_ours(head, path)
    try:
        return msgspec.convert(head, Report)
    except msgspec.ValidationError as error:
        raise InputError(
            f"{path} is a damaged report: {error}; run the benchmark again or restore the file"
        ) from error


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python: a long run is not lost for its kind."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a record cannot hold a {type(value).__name__}")


def _require_ours(head: Any, path: Path) -> None:
    """InputError for JSON of another kind and for another version of the record."""
    if not isinstance(head, dict) or not {"schema", "rows", "settings"} <= head.keys():
        raise InputError(f"{path} is no report of ifmmin-bench; give the JSON file that it wrote")
    if head["schema"] != SCHEMA:
        raise InputError(
            f"{path} is a report of schema {head['schema']!r}, this version reads {SCHEMA}; "
            "read it with the version of ifmmin that wrote it"
        )
