"""Puts the facts together. A look that goes wrong leaves its fields empty and says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from ifmmin.runtime.backends import BACKENDS
from ifmmin.runtime.check import one_line
from ifmmin.runtime.doctor.ask import Answers, ask
from ifmmin.runtime.doctor.cpu import find_cpu
from ifmmin.runtime.doctor.facts import BackendState, Facts, Gpu, Jetson, Nvidia, OnnxRuntime
from ifmmin.runtime.doctor.host import Host
from ifmmin.runtime.doctor.jetson import CAPABILITIES, find_jetson
from ifmmin.runtime.doctor.libraries import find_libraries
from ifmmin.runtime.doctor.nvidia import find_nvidia
from ifmmin.runtime.doctor.packages import find_onnxruntime, find_packages
from ifmmin.runtime.doctor.system import (
    find_library_path,
    find_memory,
    find_python,
    find_system,
    find_temperatures,
)

Found = TypeVar("Found")
_LOOKS: dict[str, Callable[[Host], Any]] = {
    "python": find_python,
    "system": find_system,
    "cpu": find_cpu,
    "memory": find_memory,
    "jetson": find_jetson,
    "libraries": find_libraries,
    "packages": find_packages,
    "temperatures": find_temperatures,
    "library_path": find_library_path,
}


class Looking:
    """Looks for things that may fail, each with what then stands in for it."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        """What failed, and how."""

    def __call__(self, name: str, find: Callable[[], Found], otherwise: Found) -> Found:
        """What `find` finds. Whatever it raises is kept in `failed`."""
        try:
            return find()
        # A machine may be stranger than any test; the rest of the report is still of use.
        except Exception as error:
            self.failed.append(f"{name}: {type(error).__name__}: {one_line(error)}")
            return otherwise


def collect(host: Host, ask: Callable[[Sequence[str]], Answers] = ask) -> Facts:
    """Look at everything. ask: answers what needs a process of its own."""
    look = Looking()
    backends = [f"backend:{name}" for name in BACKENDS]
    nothing: Answers = {}
    answers = look("ask", lambda: ask(["cuda", "onnxruntime", *backends]), nothing)
    facts = Facts()
    for name, find in _LOOKS.items():
        found = look(name, partial(find, host), getattr(facts, name))
        facts = msgspec.structs.replace(facts, **{name: found})
    nvidia = look("nvidia", lambda: find_nvidia(host, answers.get("cuda", {})), Nvidia())
    runtime = look("onnxruntime", lambda: _onnxruntime(host, answers), OnnxRuntime())
    return msgspec.structs.replace(
        facts,
        nvidia=_with_soc(nvidia, facts.jetson),
        onnxruntime=runtime,
        backends=tuple(_state(name, answers) for name in BACKENDS),
        failed=tuple(look.failed),
    )


def _onnxruntime(host: Host, answers: Answers) -> OnnxRuntime:
    answer = answers.get("onnxruntime", {})
    providers = answer.get("providers")
    names = tuple(map(str, providers)) if isinstance(providers, list) else ()
    return find_onnxruntime(host, names, str(answer.get("error", "")))


def _state(name: str, answers: Answers) -> BackendState:
    answer = answers.get(f"backend:{name}", {"error": "nobody answered"})
    reason = str(answer.get("error", ""))
    return BackendState(name=name, usable=not reason, reason=reason)


def _with_soc(nvidia: Nvidia, jetson: Jetson | None) -> Nvidia:
    """The GPU of a Jetson is known by its SoC, also where driver and nvidia-smi say nothing."""
    capability = CAPABILITIES.get(jetson.soc, "") if jetson else ""
    if not capability or any(gpu.compute_capability for gpu in nvidia.gpus):
        return nvidia
    name = nvidia.gpus[0].name if nvidia.gpus else f"{jetson.soc} (built in)" if jetson else ""
    return msgspec.structs.replace(nvidia, gpus=(Gpu(name=name, compute_capability=capability),))
