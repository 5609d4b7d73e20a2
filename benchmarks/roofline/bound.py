"""Bound of one call of a graph: the least time that a processor could take.

The bound is the sum over the nodes, which run one after the other, of

    max(multiply-adds / peak rate, bytes of weights / read rate).

- The peak rate and the read rates are those that were measured on this machine, of all threads
  together; work is taken to divide evenly among them, without any cost of meeting.
- Weights are streamed once per call. All of them together are the working set, so the first time in
  a call that a weight is read it comes at the rate of a working set as large as all weights of the
  graph. A weight that is read again comes at the rate of what its node reads.
- A recurrence takes one step after the other: every step reads all recurrent weights, and takes
  max(its multiply-adds / peak rate, their bytes / read rate). The first step reads them for the
  first time; later ones at the rate of a working set of their size. Projections of an LSTM's inputs
  are one product over all steps, before the recurrence.
- Weights count with the bytes they have in the file: 8-bit weights one byte each, the 8-bit side of
  Q/DQ pairs too.
- Products of 8 bits count at the higher of the rates of 8 bits and float32; where 8 bits were not
  timed, or a product is in float16, by the bytes of their weights alone.
- Not counted are activations, which stay in the first cache and which engines fuse away,
  elementwise arithmetic, and everything an engine does around its kernels.

It is a bound for programs that multiply directly (no Strassen, no Winograd) and read weights from
front to back. Whatever is faster in earnest shows a fault in the model or a probe that was
disturbed.
"""

from __future__ import annotations

import msgspec

from .count import INT8, Count, Work
from .probe import DISTURBED, Rates


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """The least that one call takes."""

    seconds: float
    """0 for a graph that neither multiplies nor has weights."""
    notes: tuple[str, ...] = ()
    """What is not counted though it is done, so that the true limit is higher; and what casts doubt
    on the rates."""


def lower_bound(count: Count, rates: Rates) -> Bound:
    """The bound of a counted call by rates of this machine, for the threads of the rates."""
    whole = rates.bandwidth(count.weight_bytes)
    seconds = 0.0
    read: set[str] = set()
    for work in count.works:
        seconds += _seconds(work, rates, whole, read)
        read.update(work.weights)
    return Bound(seconds=seconds, notes=tuple(_notes(count, rates)))


def _seconds(work: Work, rates: Rates, whole: float, read: set[str]) -> float:
    """whole: read rate of all weights of the graph. read: weights that the call has read."""
    size = sum(work.weights.values())
    again = sum(n for name, n in work.weights.items() if name in read)
    own = rates.bandwidth(size)
    peak = _peak(work.kind, rates)
    arithmetic = work.arithmetic / peak if peak else 0.0
    first = max(arithmetic, (size - again) / whole + again / own)
    later = max(arithmetic, size / own)
    return first + (work.repeats - 1) * later


def _peak(kind: str, rates: Rates) -> float | None:
    """Multiply-adds per second at most; None where nothing is known."""
    if kind == "float32":
        return rates.float32
    if kind == INT8 and rates.int8 is not None:
        return max(rates.int8, rates.float32)
    return None


def _notes(count: Count, rates: Rates) -> list[str]:
    notes = [f"not counted: {name}" for name in count.uncounted]
    busy = min(rates.busy, rates.reading(count.weight_bytes).busy)
    if busy < DISTURBED:
        notes.append(
            f"other work took {1 - busy:.0%} of the processors while the rates were measured, "
            "so the bound may be too high"
        )
    for kind in sorted({work.kind for work in count.works if work.arithmetic}):
        if _peak(kind, rates) is None:
            why = f" ({rates.int8_kernel})" if kind == INT8 else ""
            notes.append(f"products in {kind} count by the bytes of their weights alone{why}")
    return notes
