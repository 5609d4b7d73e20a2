"""What every configuration checks about its numbers; the messages name the field."""

from __future__ import annotations

from collections.abc import Collection

from ifmmin.runtime.errors import RecipeError


def one_of(name: str, value: str, known: Collection[str]) -> None:
    """RecipeError unless `value` is among the known ones."""
    if value not in known:
        raise RecipeError(f"{name} must be one of {', '.join(known)}; got {value!r}")


def require_at_least(owner: object, least: float, *names: str) -> None:
    """RecipeError unless the fields are `least` or more."""
    for name in names:
        value = getattr(owner, name)
        if not value >= least:
            raise RecipeError(f"{name} must be at least {least}, got {value}")


def require_above(owner: object, least: float, *names: str) -> None:
    """RecipeError unless the fields are more than `least`."""
    for name in names:
        value = getattr(owner, name)
        if not value > least:
            raise RecipeError(f"{name} must be above {least}, got {value}")


def require_probability(owner: object, *names: str) -> None:
    """RecipeError unless the fields are in [0, 1)."""
    for name in names:
        value = getattr(owner, name)
        if not 0 <= value < 1:
            raise RecipeError(f"{name} must be in [0, 1), got {value}")
