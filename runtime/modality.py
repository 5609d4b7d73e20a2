"""Modality, and the pattern of modalities that are present."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import combinations

from .errors import InputError


class Modality(str, Enum):
    """A channel of expression. Compares and hashes like its letter: `Modality.A == "a"`."""

    A = "a"
    """Acoustic: the voice."""
    V = "v"
    """Visual: the face."""
    T = "t"
    """Textual: the words."""

    def __str__(self) -> str:
        return self.value

    @property
    def word(self) -> str:
        """The word for it: acoustic, visual or textual."""
        return {"a": "acoustic", "v": "visual", "t": "textual"}[self.value]

    @classmethod
    def of(cls, letter: str) -> Modality:
        """The modality of `letter`; InputError when there is none."""
        try:
            return _OF_LETTER[letter]
        except (KeyError, TypeError):
            raise InputError(
                f"unknown modality {str(letter)!r}; use a (acoustic), v (visual) or t (textual)"
            ) from None


_OF_LETTER = {modality.value: modality for modality in Modality}
"""Faster than the enumeration's own search."""
MODALITIES: tuple[Modality, ...] = (Modality.A, Modality.V, Modality.T)
"""Canonical order, for names and user-facing arrays."""


@dataclass(frozen=True)
class Pattern:
    """The set of modalities that are present, printed canonically: `a`, `a_t`, `a_v_t`.

    Raises InputError for an empty set.
    """

    present: frozenset[Modality]
    """At least one."""

    def __post_init__(self) -> None:
        if not self.present:
            raise InputError("no modality is present; give at least one of a, v, t")

    @classmethod
    def of(cls, modalities: Iterable[str]) -> Pattern:
        """The pattern of some modalities or their letters, in any order."""
        return cls(frozenset(Modality.of(letter) for letter in modalities))

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read `a_t`, `t_a`; InputError for unknown or repeated letters."""
        letters = text.strip().lower().split("_")
        if len(set(letters)) != len(letters):
            raise InputError(f"pattern {text!r} names a modality twice; write for example a_t")
        try:
            return cls.of(letters)
        except InputError:
            known = ", ".join(str(pattern) for pattern in ALL_PATTERNS)
            raise InputError(f"unknown pattern {text!r}; use one of {known}") from None

    @property
    def missing(self) -> tuple[Modality, ...]:
        """The absent modalities, in canonical order."""
        return tuple(m for m in MODALITIES if m not in self.present)

    def __iter__(self) -> Iterator[Modality]:
        return (m for m in MODALITIES if m in self.present)

    def __contains__(self, modality: object) -> bool:
        return modality in self.present

    def __len__(self) -> int:
        return len(self.present)

    def __str__(self) -> str:
        return "_".join(m.value for m in self)


def patterns_of(modalities: Collection[Modality]) -> tuple[Pattern, ...]:
    """All patterns of some modalities, by size and then in canonical order."""
    every = [m for m in MODALITIES if m in modalities]
    sizes = range(1, len(every) + 1)
    return tuple(Pattern(frozenset(some)) for size in sizes for some in combinations(every, size))


def incomplete_patterns(modalities: Collection[Modality]) -> tuple[Pattern, ...]:
    """Those with something missing; of a single modality, which has none, its own."""
    every = patterns_of(modalities)
    return every[:-1] or every


ALL_PATTERNS: tuple[Pattern, ...] = patterns_of(MODALITIES)
"""All seven, in the order of the published tables: a, v, t, a_v, a_t, v_t, a_v_t."""

INCOMPLETE_PATTERNS: tuple[Pattern, ...] = incomplete_patterns(MODALITIES)
"""The six with something missing, over which the literature averages."""
