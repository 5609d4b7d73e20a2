"""Which operators of a graph have 8 bits: as many as the limits allow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import onnx

from ifmmin.export.compare import Comparison
from ifmmin.export.groups import Group
from ifmmin.export.limits import Evaluation
from ifmmin.export.rounding import DAMPINGS


@dataclass(frozen=True)
class Reduction:
    """Groups of operators with fewer bits; all others are left in float32."""

    computed: tuple[str, ...] = ()
    """They compute in 8 bits."""
    weight_only: Mapping[str, int] = field(default_factory=dict)
    """Bits, 8 or 16, in which the weights of others are stored; they compute in float32."""
    rounding: int = 0
    """By which of several dampings weights are rounded."""

    def within(self, groups: Collection[str]) -> Reduction:
        """Of a graph that has these groups."""
        bits = {name: bits for name, bits in self.weight_only.items() if name in groups}
        kept = tuple(name for name in self.computed if name in groups)
        return Reduction(kept, bits, self.rounding)


WHOLE = Reduction()
"""Everything is left in float32."""


@dataclass(frozen=True)
class Choice:
    """A reduced model, what of it is, and how it compares."""

    model: onnx.ModelProto
    comparison: Comparison
    evaluation: Evaluation | None = None
    reduction: Reduction = WHOLE


Build = Callable[[Reduction], Choice]
Passes = Callable[[Choice], bool]


def choose_groups(
    groups: Mapping[str, Group],
    build: Build,
    passes: Passes,
    *,
    computable: Collection[str],
    weight_only: bool,
) -> Choice:
    """As many groups in 8 bits as pass: all of them, or else the largest first.

    Weights are stored in 8 bits before anything computes so, since that loses least. Then a group
    computes in 8 bits if what is chosen passes still: time and bytes go with its weights. If no
    group passes even alone, the choice of all of them, so that the caller can say what it loses.

    computable: groups that may compute in 8 bits. weight_only: whether the others, and those that
    lose too much by it, may be stored so.
    """

    def reduce(computed: Collection[str], bits: Mapping[str, int], rounding: int = 0) -> Choice:
        stored = {name: bits[name] for name in groups if name in bits and name not in computed}
        chosen = tuple(name for name in groups if name in computed)
        return build(Reduction(chosen, stored, rounding))

    whole = reduce(computable, dict.fromkeys(groups, 8) if weight_only else {})
    if passes(whole) or not groups:
        return whole
    largest_first = sorted(groups, key=lambda name: -groups[name].weights)
    best = _store(largest_first, partial(reduce, ()), passes) if weight_only else None
    standing = best.reduction if best else WHOLE
    kept: list[str] = []
    for name in largest_first:
        if name in computable:
            choice = reduce([*kept, name], standing.weight_only, standing.rounding)
            if passes(choice):
                best, kept = choice, [*kept, name]
    return best or whole


def _store(
    largest_first: Sequence[str], store: Callable[..., Choice], passes: Passes
) -> Choice | None:
    """Weights stored in 8 bits: all, or all but one, or else those that pass, the largest first.

    All of them by any rounding: answers that are all but ties turn by one or the other. Most of
    what is lost beside often comes from one group, and it need not be a large one. The others are
    stored in 16 bits, if these pass.
    """
    for number in range(len(DAMPINGS)):
        choice = store(dict.fromkeys(largest_first, 8), number)
        if passes(choice):
            return choice
    half = store(dict.fromkeys(largest_first, 16))
    best = half if passes(half) else None
    bits = {} if best is None else dict.fromkeys(largest_first, 16)
    for left in reversed(largest_first):
        choice = store({**bits, **{name: 8 for name in largest_first if name != left}})
        if passes(choice):
            return choice
    for name in largest_first:
        choice = store({**bits, name: 8})
        if passes(choice):
            best, bits = choice, {**bits, name: 8}
    return best
