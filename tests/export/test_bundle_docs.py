"""docs/bundle.md describes every field of a manifest, and the schema that is written."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ifmmin.export.compare import Comparison
from ifmmin.export.limits import Evaluation
from ifmmin.runtime import manifest
from ifmmin.runtime.manifest import SCHEMA_VERSION, Manifest

STRUCTS = [
    struct for struct in vars(manifest).values()
    if isinstance(struct, type) and issubclass(struct, msgspec.Struct)
    and not struct.__name__.startswith("_")
]  # fmt: skip
RECORDS = [Comparison, Evaluation]


@pytest.fixture
def section(root: Path) -> str:
    """The part about the manifest."""
    return (root / "docs" / "bundle.md").read_text().split("## manifest.json", 1)[1]


def _documented(section: str) -> set[str]:
    """Every word in code, so also the last part of `graphs[].parity`."""
    return set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", section))))


def test_all_structs_are_looked_at() -> None:
    assert {Manifest, manifest.GraphEntry, manifest.MissingSpec} <= set(STRUCTS)


@pytest.mark.parametrize("struct", [*STRUCTS, *RECORDS], ids=lambda struct: struct.__name__)
def test_every_field_is_described(section: str, struct: Any) -> None:
    fields = (
        [field.name for field in dataclasses.fields(struct)]
        if dataclasses.is_dataclass(struct)
        else msgspec.structs.fields(struct)
    )
    names = {field if isinstance(field, str) else field.name for field in fields}
    assert names
    assert names - _documented(section) == set()


def test_the_schema_is_the_one_that_is_written(section: str) -> None:
    assert section.startswith(f", schema {SCHEMA_VERSION}\n")


def test_a_field_that_is_not_described_would_be_found(section: str) -> None:
    assert "nonsense" not in _documented(section)
    assert "settled_at" not in _documented(section.replace("`settled_at`", ""))
