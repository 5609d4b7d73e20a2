"""Every graph of a bundle opened by a backend and held against the golden vectors."""

from __future__ import annotations

import numpy as np

from ifmmin.runtime.backends.base import Backend, Loaded
from ifmmin.runtime.batch import pad_batch
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.check import Check
from ifmmin.runtime.check_golden import GoldenRun, read_golden
from ifmmin.runtime.manifest import MODALITY_SHAPES, SHAPES


def require_golden(bundle: Bundle, backend: Backend) -> list[Loaded]:
    """Fail unless the backend answers rightly with every graph of the bundle; what it opened."""
    vectors, _ = read_golden(bundle)
    assert vectors is not None
    golden = GoldenRun(bundle.manifest, vectors)
    opened: list[Loaded] = []
    checks: list[Check | None] = []
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
