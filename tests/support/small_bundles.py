"""Bundles of a tiny network, made once for all tests that ask, and ways to damage a copy of one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ifmmin.runtime.backends.base import Backend, LoadedGraph
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.bundle import (
    MANIFEST_NAME,
    MODALITY_SHAPES,
    SHAPES,
    Bundle,
    GraphEntry,
    read_manifest,
)
from ifmmin.runtime.bundle.graph_file import graph_metadata
from ifmmin.runtime.bundle.verify import CheckResult, GoldenVerifier, read_golden
from ifmmin.runtime.files import atomic_directory
from ifmmin.runtime.modality import Pattern
from ifmmin.runtime.validate import pad_batch

ALL = ("a", "v", "t", "a_v", "a_t", "v_t", "a_v_t")
"""Patterns."""
LOSSES = {"logits": 1e-3, "probabilities": 0.3, "agreement": 0.5}
"""A tiny random network bears few bits badly; that is not what these tests are about."""
TRAINING = {
    "recipe": {"name": "small", "description": "Made for tests.", "stage1": {"epochs": 3}},
    "corpus": "made", "fold": 2, "seed": 7,
    "metrics": {"test": {"a": {"wa": 0.5, "ua": 0.625, "ece": 0.1, "confusion": [[3, 1], [0, 4]]}}},
}  # fmt: skip
VARIABLE = "IFMMIN_TEST_BUNDLES"
"""Names the folder in which an interpreter with torch keeps bundles for the tests of one without:
`make test-runtime` does, for both."""


def keep(bundle: Path, name: str) -> None:
    """Keep a copy of a bundle that was made just now, in place of what was there by that name."""
    folder = os.environ.get(VARIABLE)
    if folder:
        with atomic_directory(Path(folder) / name) as part:
            shutil.copytree(bundle, part, dirs_exist_ok=True)


def kept(name: str) -> Path:
    """A bundle that was kept.

    Where no folder is named the test is skipped. One that lacks the bundle fails it: else a run on
    bundles of before would pass by skipping most of itself.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"torch, which makes bundles, is not installed, and {VARIABLE} names no folder")
    path = Path(folder) / name
    if not path.is_dir():
        pytest.fail(f"{folder} has no bundle {name}; run make test-runtime")
    return path


@dataclass(frozen=True)
class _Config:
    patterns: tuple[str, ...]
    precisions: tuple[str, ...]
    shapes: tuple[str, ...]
    seed: int
    kind: str

    def __str__(self) -> str:
        parts = ("-".join(part) for part in (self.patterns, self.precisions, self.shapes))
        return ".".join((*parts, str(self.seed), self.kind))


_MADE: dict[_Config, Path] = {}


def small_bundle(
    factory: pytest.TempPathFactory,
    patterns: Sequence[str] = ("a", "t", "a_t"),
    precisions: Sequence[str] = ("fp32",),
    seed: int = 0,
    shapes: Sequence[str] = ("latency", "throughput", "stream"),
    kind: str = "if-mmin",
) -> Path:
    """A sound bundle, not to be changed; its checkpoint `model.safetensors` lies beside it.

    Without torch it is one that was kept, without a checkpoint; see `kept`.
    """
    config = _Config(tuple(patterns), tuple(precisions), tuple(shapes), seed, kind)
    if config not in _MADE:
        if find_spec("torch") is None:
            _MADE[config] = kept(str(config))
        else:
            _MADE[config] = _export(config, factory.mktemp("made"))
            keep(_MADE[config], str(config))
    return _MADE[config]


def _export(config: _Config, folder: Path) -> Path:
    from small_networks import small_network

    from ifmmin.export.export import Request, export_bundle
    from ifmmin.train.checkpoint import save_checkpoint

    network = small_network(config.kind, config.seed)
    save_checkpoint(folder / "model.safetensors", network, TRAINING)
    export_bundle(
        folder / "model.safetensors",
        [Pattern.parse(pattern) for pattern in config.patterns],
        folder / "bundle",
        request=Request(precisions=config.precisions, shapes=config.shapes, losses=LOSSES),
    )
    return folder / "bundle"


def copied(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle that may be damaged."""
    return Path(shutil.copytree(bundle, folder / "bundle"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of the manifest in place."""
    path = bundle / MANIFEST_NAME
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip(path: Path) -> None:
    """Exchange one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def put(bundle: Path, file: str, content: bytes) -> None:
    """Write a file and make the manifest agree with it, as somebody would who knows how."""
    (bundle / file).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()

    def agree(manifest: dict[str, Any]) -> None:
        for entry in [*manifest["graphs"], *manifest["engines"], manifest["golden"]]:
            if entry["file"] == file:
                entry["sha256"] = sha256
                if "bytes" in entry:
                    entry["bytes"] = len(content)

    edit(bundle, agree)


def exchange(bundle: Path, first: str, second: str) -> None:
    """Let two graph files change places."""
    contents = [(bundle / name).read_bytes() for name in (first, second)]
    put(bundle, first, contents[1])
    put(bundle, second, contents[0])


def nudge(bundle: Path, file: str, factor: float = 1.05) -> None:
    """Multiply the largest weight of a graph."""
    model = onnx.load(bundle / file)
    weight = max(
        (t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT),
        key=lambda t: int(numpy_helper.to_array(t).size),
    )
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * factor, weight.name))
    put(bundle, file, model.SerializeToString())


def relabel(bundle: Path, file: str, source: bytes, **metadata: str) -> None:
    """Put a graph in the place of another, dressed up to look like it."""
    model = onnx.load_from_string(source)
    props = {p.key: p.value for p in model.metadata_props} | metadata
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, props)
    put(bundle, file, model.SerializeToString())


def edit_all(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of the manifest in place, and what every graph says of it."""
    edit(bundle, change)
    told = read_manifest(bundle)
    about = graph_metadata(told.labels, told.prior, told.modalities, told.checkpoint.sha256)
    for entry in told.graphs:
        relabel(bundle, entry.file, (bundle / entry.file).read_bytes(), **about)


def require_golden(bundle: Bundle, backend: Backend) -> list[LoadedGraph]:
    """Fail unless the backend answers rightly with every graph of the bundle; what it opened."""
    vectors, _ = read_golden(bundle)
    assert vectors is not None
    golden = GoldenVerifier(bundle.manifest, vectors)
    opened: list[LoadedGraph] = []
    checks: list[CheckResult | None] = []
    for entry in sorted(bundle.manifest.graphs, key=lambda entry: SHAPES.index(entry.shape)):
        opened.append(backend.open(bundle, entry))
        checks.append(golden.check(entry, opened[-1].run))
    own = [loaded.entry for loaded in opened if loaded.entry.shape in MODALITY_SHAPES]
    checks += [golden.check_by_heads(entry) for entry in own]
    seen = {loaded.entry.shape for loaded in opened}
    assert seen == set(SHAPES)
    assert [str(check) for check in checks if check is not None and not check.passed] == []
    return opened


def runs_as_its_own(bundle: Bundle, backend: Backend, shape: str) -> None:
    """Fail unless outputs are float32, may be written to, and outlive later calls and the graph."""
    entry = next(entry for entry in bundle.manifest.graphs if entry.shape == shape)
    assert entry.pattern is not None
    cases = [{m: features[m] for m in entry.pattern} for features in bundle.golden_inputs()]
    if shape == "throughput":
        calls = [pad_batch([case]) for case in cases]
    else:
        calls = [{m.value: array for m, array in case.items()} for case in cases]
    loaded = backend.open(bundle, entry)
    first = loaded.run(calls[0])[0]
    kept = first.copy()
    others = [loaded.run(call)[0] for call in calls[1:]]
    assert first.dtype == np.float32
    assert np.array_equal(first, kept)
    assert not any(np.array_equal(first, other) for other in others)
    first += 1
    assert np.array_equal(loaded.run(calls[0])[0], kept)
    del loaded
    assert np.array_equal(first, kept + 1)


@dataclass
class Noted:
    """What was done with graphs on the CPU: which were opened, and called with what, in order."""

    opened: list[str] = field(default_factory=list)
    calls: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    """Files with inputs."""

    def called(self, shape: str) -> list[str]:
        """Pattern or modality of every call of graphs of a shape."""
        names = [file.split(".") for file, _ in self.calls]
        return [name[0] for name in names if name[1] == shape]


def note_graphs(monkeypatch: pytest.MonkeyPatch) -> Noted:
    """Note what is done with graphs that are opened from now on."""
    noted, open_graph = Noted(), OnnxRuntimeCpu.open

    def opening(self: OnnxRuntimeCpu, bundle: Bundle, entry: GraphEntry) -> LoadedGraph:
        noted.opened.append(entry.file)
        loaded = open_graph(self, bundle, entry)

        def run(inputs: Mapping[str, Any]) -> list[Any]:
            noted.calls.append((entry.file, inputs))
            return loaded.run(inputs)

        return replace(loaded, run=run)

    monkeypatch.setattr(OnnxRuntimeCpu, "open", opening)
    return noted


def graph_entry(
    shape: str = "latency", subject: str = "a", precision: str = "fp32", **more: Any
) -> GraphEntry:
    """An entry of a manifest of which only some fields matter."""
    fields: dict[str, Any] = {
        "recurrence": "lstm", "file": f"{subject}.onnx", "sha256": "", "bytes": 0, "opset": 18,
        "inputs": (), "outputs": (), "parity": {},
    }  # fmt: skip
    return GraphEntry(shape=shape, subject=subject, precision=precision, **(fields | more))


def with_backends(
    bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch,
    known: Mapping[str, Callable[[Any], Backend]], precisions: Sequence[str] = ("fp32",),
) -> Path:  # fmt: skip
    """A copy of a bundle that names backends, which are all that there are."""
    monkeypatch.setattr("ifmmin.runtime.backends.base.BACKENDS", known)
    monkeypatch.setattr("ifmmin.runtime.sessions.BACKENDS", known)
    own, spec = copied(bundle, folder), {"recurrences": ["lstm"], "precisions": precisions}
    edit(own, lambda manifest: manifest.__setitem__("backends", dict.fromkeys(known, spec)))
    return own
