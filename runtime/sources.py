"""What `ifmmin-run` reads from: utterances that come one after the other, each read in its turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ifmmin.runtime.validate import Utterance


@dataclass(frozen=True)
class Clip:
    """One utterance to answer."""

    name: str
    utterance: Utterance
    quality: Mapping[str, float] = field(default_factory=dict)
    """Per letter a score that came with it."""


@dataclass(frozen=True)
class Item:
    """One input that is not read yet."""

    name: str
    """What the answer is called if the input has no name of its own."""
    where: str
    """What messages call it: a path, or a file and a line."""
    read: Callable[[], Clip]
    """Raises InputError."""


@dataclass(frozen=True)
class Source:
    """Inputs that come one after the other."""

    count: int | None
    """How many; None: known only at the end."""
    items: Callable[[], Iterator[Item]]
