"""Who takes part in a group of calls that take turns, and what its row says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.modality import Modality

Features = dict[Modality, NDArray[np.float32]]
"""Raw features (T, D) of what is present."""


@dataclass(frozen=True)
class Way:
    """What executes the answers."""

    backend: str
    precision: str
    threads: int


def _as_it_is(features: Features, lengths: Mapping[Modality, int]) -> Features:
    return features


@dataclass(frozen=True)
class Entrant:
    """A call, and what its row says of it."""

    name: str
    call: Callable[..., Any]
    """From what `ready` made to the answer; this is timed."""
    way: Way
    ready: Callable[[Features, Mapping[Modality, int]], Any] = _as_it_is
    """Inputs of the call from features and from the lengths of what is missing; not timed."""
    placement: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    others: Sequence[Callable[..., Any]] = ()
    """The same call in further sessions: what a session drew, such as where its memory came to lie,
    moves a graph by some per cent for as long as it lives."""
    peer: bool = False
    """It runs another graph than the bundle's, whose accuracy was not measured."""

    def prepared(self, features: Features, lengths: Mapping[Modality, int]) -> Callable[[], Any]:
        """A call on prepared inputs, to be timed."""
        return partial(self.call, self.ready(features, lengths))

    def in_turns(
        self, features: Features, lengths: Mapping[Modality, int]
    ) -> Sequence[Callable[[], Any]]:
        """The same of every session."""
        inputs = self.ready(features, lengths)
        return [partial(call, inputs) for call in (self.call, *self.others)]
