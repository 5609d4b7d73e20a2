"""What a graph may lose on inputs that its export did not see."""

from __future__ import annotations

from dataclasses import replace

from ifmmin.export.limits import DEFAULTS, Limits
from ifmmin.runtime.manifest import GraphEntry

_MARGIN = 4.0
"""Times the largest difference at export: other draws have another largest one, up to 3.3 times as
large on trained networks, and export chose what it quantised by the draws it had."""
_AGREEMENT = 0.03
"""Share of answers that may be lost beyond that: of 131 probes some lie between two classes."""


def fresh_limits(entry: GraphEntry) -> Limits:
    """What a graph may lose on probes that export did not see.

    In float32 what is allowed at export, unless it was exported with more. What has fewer bits is
    held to what export measured, which may also be more than the defaults.
    """
    limits = DEFAULTS[entry.precision]
    if limits.logits is not None:
        if _figure(entry, "excess", 0.0) > 1.0:
            return replace(limits, logits=_MARGIN * _figure(entry, "max_difference", 0.0))
        return limits
    probabilities = _MARGIN * _figure(entry, "probability_max", 0.0)
    agreement = min(limits.agreement, _figure(entry, "agreement", 1.0)) - _AGREEMENT
    return replace(
        limits, probabilities=max(limits.probabilities or 0.0, probabilities), agreement=agreement
    )


def _figure(entry: GraphEntry, name: str, otherwise: float) -> float:
    """What export measured; JSON has null for what was not finite."""
    value = entry.parity.get(name)
    return float(value) if isinstance(value, int | float) else otherwise
