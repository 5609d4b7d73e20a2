"""Answers to questions that load somebody's library, on standard output, a line of JSON each.

Run as `python -m ... QUESTION...`. `cuda`: the driver by its own library, all that a Jetson may
have. `onnxruntime`: what is compiled in. `backend:NAME`: whether it starts here.
`bundle:NAME:DIRECTORY`: the golden inputs of a bundle by a backend.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..backends import Backend
from ..backends.base import make_backend
from ..bundle import Bundle, GraphEntry
from ..bundle.verify import WHAT, CheckResult, GoldenVerifier, check_bundle, read_golden
from ..errors import BackendUnavailable, one_line

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""Numbers of device attributes in CUDA's interface of C."""


def ask_cuda() -> dict[str, Any]:
    """`version` of CUDA that the driver speaks, `gpus`, and `error` where it does not start.

    An empty answer: there is no driver.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {}
    found: dict[str, Any] = {}
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)) == 0:
        found["version"] = f"{number.value // 1000}.{number.value % 1000 // 10}"
    code = driver.cuInit(0)
    if code != 0:
        return {**found, "error": f"the driver does not start: {_name(driver, code)}"}
    driver.cuDeviceGetCount(ctypes.byref(number))
    return {**found, "gpus": [_gpu(driver, index) for index in range(number.value)]}


def _gpu(driver: Any, index: int) -> dict[str, Any]:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    parts = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        parts.append(str(value.value))
    return {
        "name": name.value.decode(errors="replace"),
        "compute_capability": ".".join(parts),
        "memory": memory.value,
    }


def _name(driver: Any, code: int) -> str:
    text = ctypes.c_char_p()
    if driver.cuGetErrorName(code, ctypes.byref(text)) == 0 and text.value:
        return f"{text.value.decode(errors='replace')} ({code})"
    return f"error {code}"


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


def _golden(bundle: Bundle, backend: Backend) -> Iterator[CheckResult]:
    vectors, check = read_golden(bundle)
    yield check
    if vectors is None:
        return
    golden = GoldenVerifier(bundle.manifest, vectors)
    entries = latency_graphs(bundle, backend.name)
    if not entries:
        precisions = bundle.manifest.backends.get(backend.name)
        wanted = " or ".join(precisions.precisions) if precisions else "a newer ifmmin's"
        detail = f"not run: no graph for {backend.name}; export one in {wanted}"
        yield CheckResult(bundle.manifest.golden.file, WHAT, True, detail, note=True)
    for entry in entries:
        yield from _judged(golden, bundle, entry, backend)


def _judged(
    golden: GoldenVerifier, bundle: Bundle, entry: GraphEntry, backend: Backend
) -> Iterator[CheckResult]:
    try:
        loaded = backend.open(bundle, entry)
    except BackendUnavailable as error:
        yield CheckResult(entry.file, "loads", True, f"not run: {one_line(error)}", note=True)
        return
    # An engine may raise anything of a graph that is not what it should be.
    except Exception as error:
        yield CheckResult(entry.file, "loads", False, one_line(error))
        return
    for note in loaded.notes:
        yield CheckResult(entry.file, "loads", True, note, note=True)
    # Only graphs of one modality get no verdict of their own.
    yield golden.check(entry, loaded.run) or CheckResult(entry.file, WHAT, False, "no verdict")


def summarise(checks: list[CheckResult]) -> dict[str, Any]:
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


def main(questions: Sequence[str]) -> None:
    """Answer each question in turn; whatever goes wrong becomes its answer."""
    # Libraries print on standard output as they like; answers get a channel of their own.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for question in questions:
        try:
            answer = _answer(question)
        except BackendUnavailable as error:
            answer = {"error": " ".join(str(error).split())}
        # What strange libraries raise is what is asked for here.
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {one_line(error)}"}
        channel.write(json.dumps([question, answer]) + "\n")
        channel.flush()


def _answer(question: str) -> dict[str, Any]:
    kind, _, rest = question.partition(":")
    if kind == "cuda":
        return ask_cuda()
    if kind == "onnxruntime":
        import onnxruntime

        return {"providers": list(onnxruntime.get_available_providers())}
    if kind == "backend":
        make_backend(rest)
        return {}
    name, _, directory = rest.partition(":")
    return test_bundle(name, directory)


if __name__ == "__main__":
    main(sys.argv[1:])
