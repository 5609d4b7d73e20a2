"""Search for the operators of a graph that bear 8 bits: as many as the limits allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx

from ..verify.parity import Comparison, Evaluation
from .groups import Group


@dataclass(frozen=True)
class Choice:
    """A model, which groups of its operators compute in 8 bits, and how it compares."""

    model: onnx.ModelProto
    comparison: Comparison
    evaluation: Evaluation | None = None
    quantised: tuple[str, ...] = ()


def choose_groups(
    groups: Mapping[str, Group],
    build: Callable[[tuple[str, ...]], Choice],
    passes: Callable[[Choice], bool],
) -> Choice:
    """As many groups in 8 bits as pass: all of them, or else one after the other.

    The largest go first, since time and bytes go with weights. If no group passes even alone, the
    choice of all of them, so that the caller can say what it loses.
    """
    whole = build(tuple(groups))
    if passes(whole):
        return whole
    best: Choice | None = None
    for name in sorted(groups, key=lambda name: -groups[name].weights):
        kept = (*best.quantised, name) if best else (name,)
        choice = build(tuple(group for group in groups if group in kept))
        if passes(choice):
            best = choice
    return best or whole
