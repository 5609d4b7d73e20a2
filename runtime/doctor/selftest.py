"""Runs the golden inputs of a bundle by one backend."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ifmmin.runtime.backends import Backend
from ifmmin.runtime.backends.choose import make_backend
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.check import Check, one_line
from ifmmin.runtime.check_golden import WHAT, GoldenRun, read_golden
from ifmmin.runtime.errors import BackendUnavailable
from ifmmin.runtime.manifest import GraphEntry
from ifmmin.runtime.selftest import check_bundle

CPU = "onnxruntime-cpu"


def test_bundle(name: str, directory: str) -> dict[str, Any]:
    """Check everything by the CPU; by other backends the latency graphs that are made for them."""
    bundle, backend = Bundle(directory), make_backend(name)
    started = time.perf_counter()
    checks = check_bundle(bundle) if name == CPU else list(_golden(bundle, backend))
    return {**summarise(checks), "seconds": time.perf_counter() - started}


test_bundle.__test__ = False  # type: ignore[attr-defined]  # pytest shall not collect it


def latency_graphs(bundle: Bundle, backend: str) -> list[GraphEntry]:
    """Those that a backend takes, each pattern and precision once, its preferred recurrence."""
    spec = bundle.manifest.backends.get(backend)
    found: dict[tuple[str, str], GraphEntry] = {}
    for recurrence in (*(spec.recurrences if spec else ()), "none"):
        for entry in bundle.manifest.graphs:
            fits = spec is not None and entry.precision in spec.precisions
            if entry.shape == "latency" and entry.recurrence == recurrence and fits:
                found.setdefault((entry.subject, entry.precision), entry)
    return list(found.values())


def _golden(bundle: Bundle, backend: Backend) -> Iterator[Check]:
    vectors, check = read_golden(bundle)
    yield check
    if vectors is None:
        return
    golden = GoldenRun(bundle.manifest, vectors)
    entries = latency_graphs(bundle, backend.name)
    if not entries:
        precisions = bundle.manifest.backends.get(backend.name)
        wanted = " or ".join(precisions.precisions) if precisions else "a newer ifmmin's"
        detail = f"not run: no graph for {backend.name}; export one in {wanted}"
        yield Check(bundle.manifest.golden.file, WHAT, True, detail, note=True)
    for entry in entries:
        yield from _judged(golden, bundle, entry, backend)


def _judged(
    golden: GoldenRun, bundle: Bundle, entry: GraphEntry, backend: Backend
) -> Iterator[Check]:
    try:
        loaded = backend.open(bundle, entry)
    except BackendUnavailable as error:
        yield Check(entry.file, "loads", True, f"not run: {one_line(error)}", note=True)
        return
    # An engine may raise anything of a graph that is not what it should be.
    except Exception as error:
        yield Check(entry.file, "loads", False, one_line(error))
        return
    for note in loaded.notes:
        yield Check(entry.file, "loads", True, note, note=True)
    # Only graphs of one modality get no verdict of their own.
    yield golden.check(entry, loaded.run) or Check(entry.file, WHAT, False, "no verdict")


def summarise(checks: list[Check]) -> dict[str, Any]:
    """The fields of `ifmmin.runtime.doctor.report.SelfTest`, but for backend and seconds."""
    measured = [check for check in checks if check.difference is not None]
    worst = max(
        measured, key=lambda check: (check.difference or 0) / (check.allowed or 1), default=None
    )
    return {
        "passed": all(check.passed for check in checks),
        "graphs": len({check.file for check in measured}),
        "difference": worst.difference if worst else None,
        "unit": worst.unit if worst else "",
        "allowed": worst.allowed if worst else None,
        "failures": [str(check) for check in checks if not check.passed],
        "notes": [str(check) for check in checks if check.passed and check.note],
    }
