"""Slim bundles: the part of a bundle that one device needs, proven as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
from safetensors.numpy import save

from ifmmin.runtime.bundle import MANIFEST_NAME, Bundle, Golden, GraphEntry, Manifest
from ifmmin.runtime.errors import BundleError, InputError, OutputError
from ifmmin.runtime.files import atomic_directory, read_regular
from ifmmin.runtime.frontends.spec import reader_of
from ifmmin.runtime.modality import MODALITIES, Pattern

_SHAPES: dict[str, tuple[str, ...]] = {
    "latency": ("latency",), "throughput": ("throughput",), "stream": ("step", "summary", "head"),
}  # fmt: skip
_CARD = "README.md"


def write_slim(
    bundle: Bundle,
    out: Path,
    patterns: Sequence[Pattern],
    precisions: Sequence[str],
    kinds: Sequence[str] = (),
) -> Manifest:
    """Write a bundle of some patterns and precisions, with their front-ends and golden vectors.

    kinds: what it can answer; empty: whole utterances and streams, as far as the bundle has them.
    Its graphs are the bundle's, byte for byte. Raises BundleError where it lacks what is asked for,
    InputError for an unknown kind, OutputError where `out` is in use.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} is in use; name a new directory")
    for kind in kinds:
        if kind not in _SHAPES:
            raise InputError(f"--shape: got {kind!r}, wanted {', '.join(_SHAPES)}")
    graphs = _chosen(bundle, patterns, precisions, kinds)
    inside = {m for pattern in patterns for m in pattern}
    manifest = bundle.manifest
    files = {entry.file for entry in graphs}
    golden = save(
        {
            key: array
            for key, array in bundle.golden_tensors().items()
            if _concerns(key, patterns, {m.value for m in inside})
        }
    )
    slim = msgspec.structs.replace(
        manifest,
        modalities={m: manifest.modalities[m] for m in MODALITIES if m in inside},
        graphs=graphs,
        engines=tuple(e for e in manifest.engines if e.graph in files),
        golden=Golden(file=manifest.golden.file, sha256=hashlib.sha256(golden).hexdigest()),
    )
    contents = {MANIFEST_NAME: slim.to_json().encode(), slim.golden.file: golden}
    contents |= {entry.file: bundle.graph(entry) for entry in graphs}
    contents |= {entry.file: bundle.graph(entry) for entry in slim.engines}
    read = reader_of(bundle.directory)
    for spec in slim.modalities.values():
        made_by = spec.frontend.files.values() if spec.frontend else ()
        contents |= {entry.file: read(entry) for entry in made_by}
    if (bundle.directory / _CARD).is_file():
        contents[_CARD] = read_regular(bundle.directory / _CARD, BundleError)
    with atomic_directory(out) as folder:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    return slim


def _chosen(
    bundle: Bundle, patterns: Sequence[Pattern], precisions: Sequence[str], kinds: Sequence[str]
) -> tuple[GraphEntry, ...]:
    """The graphs asked for; BundleError for a pattern in a precision that the bundle lacks."""
    entries = bundle.manifest.graphs
    found: set[tuple[str, str, str, str]] = set()
    for pattern in patterns:
        subjects = {str(pattern), *(m.value for m in pattern)}
        for precision in precisions:
            own = {
                kind: [
                    e for e in entries
                    if e.shape in _SHAPES[kind] and e.precision == precision
                    and e.subject in (subjects if e.modality else {str(pattern)})
                ]
                for kind in kinds or ("latency", "stream")
            }  # fmt: skip
            whole = {k: some for k, some in own.items() if any(e.pattern for e in some)}
            if not whole or (kinds and len(whole) < len(own)):
                what = ", ".join(sorted(own.keys() - whole.keys()))
                raise BundleError(
                    f"{bundle.directory} has no {precision} graph of {pattern} ({what}); it has "
                    f"{_there(entries)}; export it with ifmmin-export ... --pattern {pattern} "
                    f"--precision {precision}"
                )
            found.update(e.key for some in whole.values() for e in some)
    return tuple(entry for entry in entries if entry.key in found)


def _there(entries: Sequence[GraphEntry]) -> str:
    """Patterns by precision."""
    by_precision: dict[str, dict[str, None]] = {}
    for entry in entries:
        if entry.pattern is not None:
            by_precision.setdefault(entry.precision, {})[entry.subject] = None
    return "; ".join(f"{name}: {', '.join(some)}" for name, some in by_precision.items())


def _concerns(key: str, patterns: Sequence[Pattern], letters: set[str]) -> bool:
    """Whether a tensor of the golden file is of what is kept."""
    kind, first, second = key.split("/")
    if kind == "inputs":
        return second in letters
    return first in (map(str, patterns) if kind == "logits" else letters)
