"""When something happens: a time that is given, or the clock's."""

from __future__ import annotations

import math
from typing import Any

from ifmmin.runtime.stream.numeric import as_number, refusal
from ifmmin.runtime.stream.options import StreamOptions

_WANTED = "a finite number of seconds"
_MOST_HOPS = 2.0**52
"""Up to there float64 tells one hop from the next."""


def moment(options: StreamOptions, at: Any) -> float | None:
    """Seconds; None where no time is given and there is no clock.

    Raises InputError for what is no finite number, and where hops are too short to be counted up to
    there.
    """
    name = "time"
    if at is None:
        if options.clock is None:
            return None
        at, name = options.clock(), "clock"
    if type(at) is not float or not math.isfinite(at):
        at = as_number(name, at, _WANTED)
    hop = options.seconds_per_hop
    if hop is not None and abs(at) > _MOST_HOPS * hop:
        limit = f"at most {_MOST_HOPS * hop:.3g} seconds where hops are of {hop:g}"
        raise refusal(name, at, limit)
    return float(at)
