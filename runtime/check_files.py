"""Whether the files of a bundle are those that its manifest names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.check import Check
from ifmmin.runtime.errors import BundleError
from ifmmin.runtime.manifest import MANIFEST_NAME, EngineEntry, GraphEntry

CARD_NAME = "README.md"


def check_manifest(bundle: Bundle) -> list[Check]:
    """Whether the manifest makes sense alone, and whether the directory holds more than it says."""
    graphs, engines = bundle.manifest.graphs, bundle.manifest.engines
    keys = [" ".join(entry.key) for entry in graphs]
    files = [*(entry.file for entry in graphs), *(entry.file for entry in engines)]
    twice = [name for name, count in Counter([*keys, *files]).items() if count > 1]
    detail = f"named twice: {', '.join(twice)}" if twice else f"{len(graphs)} graphs"
    return [
        Check(MANIFEST_NAME, "names everything once", not twice, detail),
        *_unknown_files(bundle),
        *(_check_source(bundle, engine) for engine in engines),
    ]


def read_graph(bundle: Bundle, entry: GraphEntry | EngineEntry) -> tuple[bytes | None, Check]:
    """The content of a graph or engine, None where it is not what the manifest says."""
    try:
        content = bundle.graph(entry)
    except BundleError as error:
        return None, Check(entry.file, "file", False, str(error))
    if len(content) != entry.bytes:
        detail = f"got {len(content)} bytes, the manifest says {entry.bytes}"
        return None, Check(entry.file, "file", False, detail)
    return content, Check(entry.file, "file", True, f"sha256 {entry.sha256[:12]}...")


def _check_source(bundle: Bundle, engine: EngineEntry) -> Check:
    """An engine must be of a graph as it is now."""
    current = {entry.file: entry.sha256 for entry in bundle.manifest.graphs}
    found = current.get(engine.graph, "no such graph")
    if found == engine.graph_sha256:
        return Check(engine.file, "built from", True, engine.graph)
    detail = (
        f"of {engine.graph} with sha256 {engine.graph_sha256[:12]}..., "
        f"the bundle has {found[:12]}...; build it again"
    )
    return Check(engine.file, "built from", False, detail)


def _unknown_files(bundle: Bundle) -> Iterator[Check]:
    """Files that nothing reads do no harm, but whoever copies bundles should know of them.

    Hidden ones are left alone: version control and file managers put them everywhere.
    """
    manifest = bundle.manifest
    known = {MANIFEST_NAME, CARD_NAME, manifest.golden.file}
    known.update(entry.file for entry in manifest.graphs)
    known.update(entry.file for entry in manifest.engines)
    for path in sorted(bundle.directory.iterdir()):
        if path.name not in known and not path.name.startswith("."):
            yield Check(path.name, "known", True, "not named by the manifest; unused", note=True)
