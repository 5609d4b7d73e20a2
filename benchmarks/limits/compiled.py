"""Compiles the probe for the processor it runs on, and keeps it for the next time."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from ifmmin.benchmarks.device.machine import Machine
from ifmmin.benchmarks.device.processor import find_processor
from ifmmin.benchmarks.limits.launch import ProbeFailed, Span, run_probe
from ifmmin.benchmarks.limits.rates import Rates
from ifmmin.runtime.atomic import atomic_directory
from ifmmin.runtime.choice_cache import cache_directory
from ifmmin.runtime.device import device_name
from ifmmin.runtime.errors import OutputError

_COMPILERS = ("cc", "gcc", "clang")
_NATIVE = ("-march=native", "-mcpu=native")
"""One of them every compiler knows. Without it the probe would have none of the instructions that
the kernels of an engine use, and the bound would be far too high."""
_FLAGS = ("-O3", "-std=gnu11", "-pthread")
_PROGRAM = "probe"
_PATIENCE = 60.0


def measure_compiled(threads: int, span: Span, directory: Path | None = None) -> Rates:
    """The rates by the C program, compiled first where it is not in the cache.

    directory: the cache, the user's own where None. Raises ProbeFailed without a compiler, or where
    the program does not run.
    """
    compiler = find_compiler()
    if compiler is None:
        raise ProbeFailed(f"there is no C compiler ({', '.join(_COMPILERS)})")
    name = f"C, by {' '.join(compiler)}"
    kept = cache_directory(directory) / "probes" / _key(compiler)
    if not (kept / _PROGRAM).is_file():
        try:
            with atomic_directory(kept) as part:
                compile_probe(compiler, part / _PROGRAM)
        except OutputError:  # a disk that is read-only: compiled anew every time
            with tempfile.TemporaryDirectory(prefix="ifmmin-probe-") as folder:
                compile_probe(compiler, Path(folder) / _PROGRAM)
                return run_probe([str(Path(folder) / _PROGRAM)], threads, span, name=name)
    return run_probe([str(kept / _PROGRAM)], threads, span, name=name)


def find_compiler() -> list[str] | None:
    """The words of `$CC`, else the first compiler of the system; None where there is none."""
    chosen = shlex.split(os.environ.get("CC", ""))
    candidates: list[Sequence[str]] = [chosen] if chosen else []
    candidates += [[name] for name in _COMPILERS]
    return next((list(words) for words in candidates if shutil.which(words[0])), None)


def compile_probe(compiler: Sequence[str], target: Path) -> None:
    """Write the program to `target`. Raises ProbeFailed with what the compiler says."""
    told = ""
    for native in _NATIVE:
        words = [*compiler, *_FLAGS, native, "-x", "c", "-", "-o", str(target)]
        try:
            done = subprocess.run(words, input=_source(), capture_output=True, timeout=_PATIENCE)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ProbeFailed(f"{compiler[0]} cannot be run ({error})") from error
        if done.returncode == 0:
            return
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        told = told or next((line for line in lines if "error" in line), "no reason given")
    raise ProbeFailed(f"{compiler[0]} does not compile it ({told})")


def _source() -> bytes:
    return (files("ifmmin.benchmarks.limits") / "probe.c").read_bytes()


def _key(compiler: Sequence[str]) -> str:
    """What the program depends on: a home directory may be shared by different machines."""
    processor = find_processor(Machine())
    parts = [_source(), " ".join((*compiler, *_FLAGS)).encode(), device_name().encode()]
    parts.append(" ".join(processor.flags).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]
