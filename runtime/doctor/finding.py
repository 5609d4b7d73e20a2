"""What a rule has to say about a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from ifmmin.runtime.doctor.facts import Facts

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""error: something that is installed cannot work, or answers wrongly. warning: it works, but slower
or less surely than it could. note: worth knowing. Worst first."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A trap that the machine is in."""

    rule: str
    """Stable name, for scripts."""
    severity: Severity
    found: str
    cure: str


Rule = Callable[[Facts], Finding | None]
"""None where the machine is not in the trap."""


def finding(rule: str, severity: Severity, found: str, cure: str) -> Finding:
    """A finding, in fewer words."""
    return Finding(rule=rule, severity=severity, found=found, cure=cure)
