"""Process: the device it runs on, the cores that it may use, and what it lets go of in its forks.

A forked child has the memory of its parent, but none of its threads: a session may wait for ever
for the threads it computes with, a lock for the thread that held it.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

_NVPMODEL = Path("/var/lib/nvpmodel/status")
_TEGRA = Path("/etc/nv_tegra_release")
_GPUS = Path("/proc/driver/nvidia/gpus")
_CGROUPS = "/sys/fs/cgroup"


@cache
def device_name() -> str:
    """Processor, cores, GPUs and, on a Jetson, its release and power mode; one line."""
    graphs = [_machine(), _processor(), f"{os.cpu_count()} cores", *_gpus()]
    for path in (_TEGRA, _NVPMODEL):
        text = _read(path)
        if text:
            graphs.append(text.splitlines()[0])
    return " | ".join(part for part in graphs if part)


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def usable_cores(read: Callable[[str], str] = _read) -> int:
    """Cores that this process may use: those that it is bound to, or fewer where a container has a
    quota of their time, which counts in whole cores, rounded up.

    read: gives the text of a file, empty where there is none.
    """
    try:
        bound = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        bound = os.cpu_count() or 1
    quota = cpu_quota(read)
    return bound if quota is None else max(1, min(bound, math.ceil(quota)))


def cpu_quota(read: Callable[[str], str] = _read) -> float | None:
    """CPUs' worth of time; None is no limit. The tightest of the groups above this process."""
    limits = []
    for group in control_groups(read):
        quota, period = (*read(f"{group}/cpu.max").split(), "", "")[:2]
        allowed, length = (
            int(text) if re.fullmatch("[0-9]{1,15}", text) else 0  # `max` and -1 are no limit
            for text in (
                quota or read(f"{group}/cpu.cfs_quota_us").strip(),
                period or read(f"{group}/cpu.cfs_period_us").strip(),
            )
        )
        if allowed and length:
            limits.append(allowed / length)
    return min(limits, default=None)


def control_groups(read: Callable[[str], str] = _read) -> list[str]:
    """Folders of the control groups that limit this process's CPU time, the innermost first."""
    found = []
    for line in read("/proc/self/cgroup").splitlines() or ["0::/", "1:cpu:/"]:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        parts = [part for part in path.split("/") if part]
        for root in {f"{_CGROUPS}/{controllers}".rstrip("/"): 0, f"{_CGROUPS}/cpu": 0}:
            found += ["/".join([root, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
    return found


def _machine() -> str:
    try:
        return os.uname().machine
    except AttributeError:  # not on every system
        return sys.platform


def _processor() -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.lower().startswith(("model name", "cpu part")):
            return line.split(":", 1)[1].strip()
    return ""


def _gpus() -> list[str]:
    found = []
    for path in sorted(_GPUS.glob("*/information")) if _GPUS.is_dir() else ():
        for line in _read(path).splitlines():
            if line.startswith("Model"):
                found.append(line.split(":", 1)[1].strip())
    return found


_MATTER = (
    "ifmmin-", "onnxruntime", "openvino-", "tensorrt", "cuda_python-", "cuda_bindings-", "numpy-",
)  # fmt: skip
"""Names of packages on which the speed of a graph depends."""


def installed_versions() -> list[str]:
    """Names and versions of what could run graphs, by the folders of sys.path.

    importlib.metadata would take longer than a graph takes to load.
    """
    found = set()
    for folder in sys.path:
        try:
            names = [path.name for path in Path(folder or ".").iterdir()]
        except OSError:
            continue
        found |= {n for n in names if n.endswith(".dist-info") and n.startswith(_MATTER)}
    return sorted(found)


Value = TypeVar("Value")


_HOLDERS: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()


def register(holder: Value, begin_anew: Callable[[Value], None]) -> None:
    """Call `begin_anew(holder)` in every child that is forked from now on, while it lives.

    It must neither run nor free what was opened before; `abandon` keeps that.
    """
    _HOLDERS[holder] = begin_anew


def abandon(thing: object) -> None:
    """Never free something, not even at the end of the process: that too would wait for threads."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class Lazy(Generic[Value]):
    """Property that is made when it is first wanted: `functools.cached_property` without the lock
    that it has before Python 3.12, which all instances share and a child would find locked."""

    def __init__(self, make: Callable[[Any], Value]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, holder: Any, owner: type | None = None) -> Value:
        value: Value = self._make(holder)
        holder.__dict__[self._name] = value
        return value


def _in_child() -> None:
    for holder, begin_anew in tuple(_HOLDERS.items()):
        begin_anew(holder)


_CALLING = threading.RLock()
"""Held where a library works under a lock of its own, for which a forked child would wait."""


@contextmanager
def unforked(*, silent: bool = False) -> Iterator[None]:
    """No other thread forks the process until the block ends.

    silent: and nothing goes to standard error, where libraries in C greet and complain.
    """
    with _CALLING:
        try:
            kept = os.dup(2) if silent else None
        except OSError:  # it is closed
            kept = None
        if kept is None:
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(nowhere)
            os.close(kept)


if hasattr(os, "register_at_fork"):  # not on every system
    os.register_at_fork(
        before=_CALLING.acquire, after_in_parent=_CALLING.release, after_in_child=_CALLING.release
    )
    os.register_at_fork(after_in_child=_in_child)
