"""A contender that is started again and again, and how long each part of its starts took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from ifmmin.benchmarks.scenarios.children import PATIENCE, run_child
from ifmmin.benchmarks.scenarios.fresh import Fresh
from ifmmin.runtime.errors import IfmminError

_CHILD = "ifmmin.benchmarks.scenarios.child_start"


class _Output(msgspec.Struct):
    moments: dict[str, float]
    """When each part was done, in order."""
    logits: list[float]


@dataclass
class Starter:
    """Starts processes until one fails."""

    fresh: Fresh
    words: Mapping[str, str]
    starts: list[dict[str, float]] = field(default_factory=list)
    """Seconds by part of each start; the part without a name is the whole."""
    failure: str = ""
    """Why it is left out."""

    def start(self) -> None:
        """Once more."""
        try:
            self.starts.append(self.fresh_start(self.words))
        except IfmminError as error:
            self.failure = str(error)

    def fresh_start(self, words: Mapping[str, str], patience: float = PATIENCE) -> dict[str, float]:
        """Seconds by part. Raises ChildFailed, or ParityError for a wrong answer."""
        told = run_child(_CHILD, words, _Output, patience)
        self.fresh.require_right(told.output.logits)
        before, parts = told.started, {}
        for part, moment in told.output.moments.items():
            parts[part] = max(0.0, moment - before)
            before = moment
        return {**parts, "": before - told.started}
