"""Rates of the processor, by a C program that is compiled for it, kept, and run."""

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
from typing import NamedTuple

import msgspec

from ifmmin.runtime.doctor.collect import find_memory
from ifmmin.runtime.errors import IfmminError, InputError, OutputError, one_line
from ifmmin.runtime.files import atomic_directory, cache_dir
from ifmmin.runtime.process import device_name, usable_cores

from ..device.info import find_caches, find_processor
from ..device.machine import Cache, Machine

MEMORY = "memory"
"""The level beyond the last cache."""
DISTURBED = 0.95
"""A rate whose round had less of the processors than this may be far too low."""
_COMPILERS = ("cc", "gcc", "clang")
_NATIVE = ("-march=native", "-mcpu=native")
"""One of them every compiler knows. Without it the probe would have none of the instructions that
the kernels of an engine use, and the bound would be far too high."""
_FLAGS = ("-O3", "-std=gnu11", "-pthread")
_PROGRAM = "probe"
_PATIENCE = 60.0
"""Seconds for the compiler, and for the probe: it takes two, or a few on a busy machine."""
_MIB = 1 << 20
_SMALLEST = 16 << 10
"""Bytes: half of the smallest first cache that is still built."""
_BEYOND = 4
"""How many times larger than the last cache the largest working set is."""
_LEAST, _MOST = 64 * _MIB, 512 * _MIB


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a working set is read that is read again and again."""

    size: int
    """Bytes, of all threads together; each thread reads its own share."""
    rate: float
    """Bytes per second, of all threads together."""
    busy: float
    """Share of the time that the threads had processors to run on; the rest went to other work."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """The best that a number of threads did together, each rate measured alone."""

    threads: int
    float32: float
    """Multiply-adds per second; one counts once, not as two operations."""
    int8: float | None
    """Multiply-adds of 8-bit values per second; None where they were not timed."""
    int8_kernel: str
    """The instructions behind `int8`, or why it is None."""
    busy: float
    """As of a reading, for the multiply-adds."""
    read: tuple[Reading, ...]
    """By growing size, from the first cache to far beyond the last; the rate never rises."""
    probe: str
    """What measured it."""

    def reading(self, size: int) -> Reading:
        """The largest working set measured that is no larger than `size`, else the smallest."""
        fits = [reading for reading in self.read if reading.size <= size]
        return fits[-1] if fits else self.read[0]

    def bandwidth(self, size: int) -> float:
        """Bytes per second at which a working set of `size` bytes can be read at best."""
        return self.reading(size).rate

    def by_level(self, caches: Sequence[Cache]) -> dict[str, float]:
        """Bytes per second by level, each at half of what the threads have of it: `L2`, `memory`.

        caches: of the device's record. Caches of instructions hold no weights and are left out.
        """
        levels = {
            cache.name: self.bandwidth(cache.size * min(cache.instances, self.threads) // 2)
            for cache in caches
            if not cache.name.endswith("i")
        }
        return {**levels, MEMORY: self.read[-1].rate}


def ceiling(rates: Sequence[Rates]) -> Rates:
    """The last of some rates, none of them below those of fewer threads.

    rates: of the same probe and sizes with a growing number of threads. What is work for several
    threads can be done by one, and what fits a small cache is not read more slowly for being
    smaller: where that was measured, something else ran on the machine.
    """
    *fewer, last = (msgspec.structs.replace(found, read=_falling(found.read)) for found in rates)
    int8 = [found.int8 for found in rates if found.int8 is not None]
    read = [
        (reading, max([reading.rate, *(found.bandwidth(reading.size) for found in fewer)]))
        for reading in last.read
    ]
    return msgspec.structs.replace(
        last,
        float32=max(found.float32 for found in rates),
        int8=max(int8, default=None),
        read=tuple(msgspec.structs.replace(reading, rate=rate) for reading, rate in read),
    )


def _falling(read: Sequence[Reading]) -> tuple[Reading, ...]:
    """By growing size, every rate at least that of all larger working sets."""
    found: list[Reading] = []
    for reading in sorted(read, key=lambda reading: reading.size, reverse=True):
        if found and found[-1].rate > reading.rate:
            reading = msgspec.structs.replace(found[-1], size=reading.size)
        found.append(reading)
    return tuple(reversed(found))


class ProbeFailed(IfmminError):  # noqa: N818 - the rest of a report does without bounds
    """The probe cannot be used on this machine; the message says why, and what to do."""


class Span(NamedTuple):
    """Working sets that are read, from the first cache to far beyond the last. In bytes."""

    smallest: int
    largest: int


def measure_rates(threads: int = 1, directory: Path | None = None) -> Rates:
    """The rates of the processor for a number of threads.

    directory: where the compiled probe is kept, the user's cache where None. Takes up to three
    seconds, twice that for several threads. Raises InputError for more threads than cores, and
    ProbeFailed without a compiler or where the probe does not run.
    """
    if not 1 <= threads <= usable_cores():
        raise InputError(
            f"the limits of {threads} threads were asked for, this process may use "
            f"{usable_cores()} cores; ask for 1 to {usable_cores()} threads"
        )
    span = working_sets(Machine(), threads)
    return ceiling([run_compiled(count, span, directory) for count in sorted({1, threads})])


def working_sets(machine: Machine, threads: int) -> Span:
    """From half of a first cache per thread to far beyond the last one, as far as memory goes."""
    caches = find_caches(machine)
    last = max((cache.size * cache.instances for cache in caches), default=0)
    free = find_memory(machine).available or _LEAST
    largest = min(max(_BEYOND * last, _LEAST), _MOST, max(free // 4, _MIB))
    smallest = _SMALLEST
    while smallest < threads * _SMALLEST // 4:
        smallest *= 2
    return Span(smallest=smallest, largest=largest)


def run_compiled(threads: int, span: Span, directory: Path | None = None) -> Rates:
    """The rates by the probe, compiled first where it is not in the cache.

    directory: the cache, the user's own where None. Raises ProbeFailed without a compiler, or where
    the program does not run.
    """
    compiler = find_compiler()
    if compiler is None:
        raise ProbeFailed(
            f"the processor's limits are measured by a C program, and there is no C compiler "
            f"({', '.join(_COMPILERS)}); install one, such as by apt install gcc, or set CC"
        )
    name = f"C, by {' '.join(compiler)}"
    kept = cache_dir(directory) / "probes" / _key(compiler)
    if not (kept / _PROGRAM).is_file():
        try:
            with atomic_directory(kept) as part:
                compile_probe(compiler, part / _PROGRAM)
        except OutputError:  # a disk that is read-only: compiled anew every time
            with tempfile.TemporaryDirectory(prefix="ifmmin-probe-") as folder:
                compile_probe(compiler, Path(folder) / _PROGRAM)
                return run_probe(Path(folder) / _PROGRAM, threads, span, name)
    return run_probe(kept / _PROGRAM, threads, span, name)


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
    raise ProbeFailed(f"{compiler[0]} does not compile the probe of the processor ({told})")


def run_probe(program: Path, threads: int, span: Span, name: str) -> Rates:
    """The rates that a compiled probe measures with a number of threads at once.

    name: what the record calls it. Raises ProbeFailed for one that does not run here, or prints
    something else.
    """
    words = [str(word) for word in (program, threads, span.smallest, span.largest)]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE
        )
    except OSError as error:
        raise ProbeFailed(f"the probe cannot be started ({error.strerror})") from error
    except subprocess.TimeoutExpired as error:
        raise ProbeFailed(f"the probe was not done in {_PATIENCE:g} seconds") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"it ended with status {done.returncode}"
        raise ProbeFailed(f"the probe of the processor fails: {reason}")
    try:
        told = {"threads": threads, "probe": name, **msgspec.json.decode(done.stdout)}
        rates = msgspec.convert(told, Rates)
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError) as error:
        raise ProbeFailed(
            f"the probe printed something else than rates ({one_line(error)})"
        ) from error
    if not (rates.read and min(rates.float32, *(reading.rate for reading in rates.read)) > 0):
        raise ProbeFailed("the probe measured nothing")
    return rates


def _source() -> bytes:
    return (files("ifmmin.benchmarks.roofline") / "probe.c").read_bytes()


def _key(compiler: Sequence[str]) -> str:
    """What the program depends on: a home directory may be shared by different machines."""
    processor = find_processor(Machine())
    parts = [_source(), " ".join((*compiler, *_FLAGS)).encode(), device_name().encode()]
    parts.append(" ".join(processor.flags).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]
