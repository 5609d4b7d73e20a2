"""The largest rate of arrivals at which a server stays within its latency limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from ifmmin.benchmarks.loadgen.result import Run

_UTMOST = 1.1
"""Times what the system does when it is asked without a pause: it cannot follow any more."""
_BACK = (1.0, 0.9, 0.75, 0.5)
"""Shares of the rate that held in trials, at which whole runs are made until one holds."""


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """What the search found."""

    rate: float
    """Queries a second that held, over a whole run; 0 where none did."""
    failed_rate: float
    """The smallest rate that did not hold."""
    run: Run
    """The whole run at `rate`, or the last that failed."""
    tried: tuple[tuple[float, bool], ...]
    """Every rate and whether it held, in order."""


def find_peak(
    probe: Callable[[float], Run], confirm: Callable[[float], Run], service: float, steps: int
) -> Peak:
    """Halve the interval of possible rates `steps` times, at least once, then confirm what held.

    probe, confirm: a short and a whole run at a rate. service: seconds of one answer. Where a whole
    run fails the rate steps back, to the half at most, so that the time is bounded.
    """
    low, high = 0.0, _UTMOST / service
    tried: list[tuple[float, bool]] = []
    runs: list[Run] = []
    for _ in range(steps):
        rate = (low + high) / 2
        runs.append(probe(rate))
        held = runs[-1].in_time
        tried.append((rate, held))
        low, high = (rate, high) if held else (low, rate)
    if not low:
        return Peak(rate=0.0, failed_rate=high, run=runs[-1], tried=tuple(tried))
    return _confirm(confirm, [low * share for share in _BACK], high, tried)


def _confirm(
    confirm: Callable[[float], Run],
    rates: Sequence[float],
    failed: float,
    tried: list[tuple[float, bool]],
) -> Peak:
    """The first of falling rates that holds over a whole run, or the last one's failure."""
    rate, *slower = rates
    run = confirm(rate)
    held = run.in_time and run.certain
    tried.append((rate, held))
    if held or not slower:
        kept, lost = (rate, failed) if held else (0.0, rate)
        return Peak(rate=kept, failed_rate=lost, run=run, tried=tuple(tried))
    return _confirm(confirm, slower, rate, tried)
