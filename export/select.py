"""Which operators of a graph compute in 8 bits: as many as the limits allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from ifmmin.export.compare import Comparison
from ifmmin.export.limits import Evaluation
from ifmmin.export.quantise import Group


@dataclass(frozen=True)
class Choice:
    """A quantised model, which groups of its operators are, and how it compares."""

    model: onnx.ModelProto
    groups: tuple[str, ...]
    comparison: Comparison
    evaluation: Evaluation | None = None


def choose_groups(
    groups: Mapping[str, Group],
    build: Callable[[Sequence[str]], Choice],
    passes: Callable[[Choice], bool],
) -> Choice:
    """Every group if that passes; else the largest first, each kept if what is chosen passes still.

    Large groups are what 8 bits are for: time and bytes go with their weights. If no group passes
    even alone, the choice of all of them, so that the caller can say what it loses.
    """
    whole = build(list(groups))
    if passes(whole) or not groups:
        return whole
    best: Choice | None = None
    kept: list[str] = []
    for name in sorted(groups, key=lambda name: -groups[name].weights):
        choice = build([other for other in groups if other in kept or other == name])
        if passes(choice):
            best, kept = choice, [*kept, name]
    return best or whole
