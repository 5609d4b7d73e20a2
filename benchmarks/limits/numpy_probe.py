"""The probe for machines without a compiler: numpy's matrix product, and a maximum over memory.

    python -m ifmmin.benchmarks.limits.numpy_probe THREADS SMALLEST LARGEST

Prints what probe.c prints. How many threads the product takes must be in the environment before
numpy is imported (`probe.THREAD_VARIABLES`), so this runs in a process of its own.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

INT8_KERNEL = "not timed: numpy has no fast product of 8-bit matrices"
_MATRIX = 512
"""Rows of the matrices: they fit a second or third cache, and the product's edges do not weigh."""
_ROUNDS = 12
_ROUND_BYTES = 1 << 24
"""Read by a thread in a round, in rows of the working set."""


@dataclass(frozen=True)
class Round:
    """The best of several rounds, in which all threads do their work at the same time."""

    seconds: float
    busy: float
    """Share of the time that the threads had processors to run on."""


def multiply(threads: int) -> tuple[float, Round]:
    """A product of float32 matrices: its multiply-adds, and the best round.

    threads: how many the environment gives it.
    """
    matrix = np.full((_MATRIX, _MATRIX), 0.5, np.float32)
    out = np.empty_like(matrix)
    return _MATRIX**3, _best([lambda: np.matmul(matrix, matrix, out=out)], threads)


def read(threads: int, size: int) -> tuple[int, float, Round]:
    """A working set: its bytes, a little less than asked, those read in a round, and the best."""
    words = size // threads // 4
    repeats = max(1, _ROUND_BYTES // (words * 4))
    calls = [_reader(words, repeats) for _ in range(threads)]
    size = words * 4 * threads
    return size, size * repeats, _best(calls, threads)


def _reader(words: int, repeats: int) -> Callable[[], object]:
    """Reads integers again and again in one call: all rows of the array are the same memory.

    The maximum of integers is the reduction that numpy computes with the least arithmetic.
    """
    shared = np.ones(words, np.int32)  # zeros would be pages that the kernel has not given yet
    rows = as_strided(shared, (repeats, words), (0, 4))
    out = np.empty(repeats, np.int32)
    return lambda: np.maximum.reduce(rows, axis=1, out=out)


def _best(calls: Sequence[Callable[[], object]], threads: int) -> Round:
    """threads: how many the calls take together."""
    gate = threading.Barrier(len(calls))
    # Wall time and the time that the process ran, per call and round.
    begins, ends = (np.empty((2, len(calls), _ROUNDS)) for _ in range(2))

    def work(index: int) -> None:
        calls[index]()
        for turn in range(_ROUNDS):
            gate.wait()
            begins[:, index, turn] = time.perf_counter(), time.process_time()
            calls[index]()
            ends[:, index, turn] = time.perf_counter(), time.process_time()

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    wall, ran = ends.max(axis=1) - begins.min(axis=1)
    best = int(wall.argmin())
    return Round(float(wall[best]), float(ran[best] / (threads * wall[best])))


def main(threads: int, smallest: int, largest: int) -> None:
    """Measure and print."""
    arithmetic, product = multiply(threads)
    doublings = (largest // smallest).bit_length()
    readings = [read(threads, smallest << step) for step in range(doublings)]
    found = {
        "float32": arithmetic / product.seconds,
        "int8": None,
        "int8_kernel": INT8_KERNEL,
        "busy": product.busy,
        "read": [(size, work / best.seconds, best.busy) for size, work, best in readings],
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:4]))
