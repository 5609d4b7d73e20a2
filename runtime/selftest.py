"""Proves a bundle on the device at hand, without torch and without its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

from ifmmin.runtime.backends import Runner
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.check import Check
from ifmmin.runtime.check_files import check_manifest, read_graph
from ifmmin.runtime.check_golden import GoldenRun, read_golden
from ifmmin.runtime.check_interface import check_interface, read_interface
from ifmmin.runtime.console import Advance
from ifmmin.runtime.errors import BackendUnavailable, one_line
from ifmmin.runtime.manifest import MODALITY_SHAPES, SHAPES, GraphEntry, Manifest


def check_bundle(
    bundle: Bundle, *, backend: OnnxRuntimeCpu | None = None, advance: Advance | None = None
) -> list[Check]:
    """Look at everything in a bundle; the result says what was found, right or wrong.

    Files and hashes; that every graph loads, is the one that the manifest describes, and answers
    the golden vectors: one by one, in a padded batch, in chunks. backend: what runs the graphs.
    advance: called once per graph of the manifest. One graph is in
    memory at a time. Raises BackendUnavailable.
    """
    advance = advance or _silent
    test = _Selftest(bundle, backend or OnnxRuntimeCpu())
    # Heads build on summaries, those on steps: the order of SHAPES.
    for entry in sorted(bundle.manifest.graphs, key=lambda entry: SHAPES.index(entry.shape)):
        test.checks += test.of_graph(entry)
        advance(entry.file)
    return [*test.checks, *test.of_modalities()]


def load_as_exported(
    backend: OnnxRuntimeCpu, manifest: Manifest, entry: GraphEntry, content: bytes
) -> Runner:
    """Load a graph as its export did to compare it: literally, where it is for other engines."""
    own = manifest.backends.get(backend.name)
    return backend.load(content, literal=own is not None and entry.precision not in own.precisions)


class _Selftest:
    def __init__(self, bundle: Bundle, backend: OnnxRuntimeCpu) -> None:
        self._bundle = bundle
        self._backend = backend
        vectors, check = read_golden(bundle)
        self._golden = None if vectors is None else GoldenRun(bundle.manifest, vectors)
        self.checks = [*check_manifest(bundle), check]
        for engine in bundle.manifest.engines:
            self.checks.append(read_graph(bundle, engine)[1])
        self._unproven: list[GraphEntry] = []

    def of_graph(self, entry: GraphEntry) -> Iterator[Check]:
        content, check = read_graph(self._bundle, entry)
        yield check
        if content is None:
            return
        try:
            found = read_interface(content)
            run = load_as_exported(self._backend, self._bundle.manifest, entry, content)
        except BackendUnavailable:
            raise
        # An engine may raise anything of a graph that is not what it should be.
        except Exception as error:
            yield Check(entry.file, "loads", False, one_line(error))
            return
        yield Check(entry.file, "loads", True, f"by {self._backend.name}")
        yield from check_interface(entry, self._bundle.manifest, found)
        if self._golden is None:
            return
        verdict = self._golden.check(entry, run)
        if verdict is not None:
            yield verdict
        elif entry.shape in MODALITY_SHAPES:
            self._unproven.append(entry)

    def of_modalities(self) -> Iterator[Check]:
        """What only the heads could tell."""
        if self._golden is not None:
            yield from (self._golden.check_by_heads(entry) for entry in self._unproven)


def _silent(note: str) -> None:
    """Show nothing."""
