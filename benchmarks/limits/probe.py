"""Measures on the spot what the processor can do, in a few seconds."""

from __future__ import annotations

import sys
from pathlib import Path

from ifmmin.benchmarks.device.machine import Machine
from ifmmin.benchmarks.device.processor import find_caches
from ifmmin.benchmarks.limits.compiled import measure_compiled
from ifmmin.benchmarks.limits.launch import ProbeFailed, Span, run_probe
from ifmmin.benchmarks.limits.rates import Rates, ceiling
from ifmmin.runtime.device import usable_cores
from ifmmin.runtime.doctor.system import find_memory
from ifmmin.runtime.errors import InputError

THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "OMP_NUM_THREADS",
)  # fmt: skip
"""Where the libraries behind numpy's products look for the number of threads."""
_MIB = 1 << 20
_SMALLEST = 16 << 10
"""Bytes: half of the smallest first cache that is still built."""
_BEYOND = 4
"""How many times larger than the last cache the largest working set is."""
_LEAST, _MOST = 64 * _MIB, 512 * _MIB
_NUMPY_MODULE = "ifmmin.benchmarks.limits.numpy_probe"


def measure_rates(threads: int = 1, directory: Path | None = None) -> Rates:
    """The rates of the processor for a number of threads, by the C probe, else by numpy.

    directory: where the compiled probe is kept, the user's cache where None. Takes up to three
    seconds, twice that for several threads. Raises InputError for more threads than cores, and
    ProbeFailed where nothing can be measured.
    """
    if not 1 <= threads <= usable_cores():
        raise InputError(
            f"the limits of {threads} threads were asked for, this process may use "
            f"{usable_cores()} cores; ask for 1 to {usable_cores()} threads"
        )
    counts = sorted({1, threads})
    span = working_sets(Machine(), threads)
    try:
        return ceiling([measure_compiled(count, span, directory) for count in counts])
    except ProbeFailed as error:
        reason = str(error)
    try:
        return ceiling([measure_numpy(count, span, reason) for count in counts])
    except ProbeFailed as error:
        raise ProbeFailed(
            f"this processor's limits cannot be measured: not by the C probe, {reason}, and not by "
            f"numpy, {error}; mend one of them, or do without bounds"
        ) from error


def measure_numpy(threads: int, span: Span, reason: str = "") -> Rates:
    """The rates by numpy, too low by some percent, and by half in the first cache.

    A bound by them may be too high by as much. reason: why the C probe is not used, for the record.
    Raises ProbeFailed where numpy cannot.
    """
    name = "numpy" + (f", without the C probe: {reason}" if reason else "")
    environment: dict[str, str] = dict.fromkeys(THREAD_VARIABLES, str(threads))
    command = [sys.executable, "-m", _NUMPY_MODULE]
    return run_probe(command, threads, span, name=name, environment=environment)


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
