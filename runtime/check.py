"""One thing that was looked at in a bundle, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was looked at in a bundle."""

    file: str
    """File of the bundle."""
    what: str
    """What was looked at, e.g. `golden vectors`."""
    passed: bool
    detail: str
    """One line: what was got, and what was wanted where it is something else."""
    difference: float | None = None
    """Largest difference from the right answers, where answers were compared."""
    unit: str = ""
    """What differs: `logit` or `probability`."""
    allowed: float | None = None
    """What the difference may be."""
    note: bool = False
    """It passes, and yet somebody should hear of it."""

    def __str__(self) -> str:
        return f"{self.file}: {self.what}: {self.detail}"
