"""What a sweep is asked to run: entries (a name and a recipe), folds and seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ifmmin.runtime.console import say
from ifmmin.runtime.errors import InputError, RecipeError
from ifmmin.train.config import MODELS
from ifmmin.train.recipe import Recipe, load_recipe

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, order=True)
class Unit:
    """One training: an entry by its name, a fold, a seed."""

    entry: str
    fold: int
    seed: int

    def __str__(self) -> str:
        return f"{self.entry}, fold {self.fold}, seed {self.seed}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what the units of a sweep give, besides the corpus's place."""

    entries: dict[str, Recipe]
    folds: list[int]
    seeds: list[int]
    threads: int
    """CPU threads of a unit: another number gives other rounding."""

    def units(self) -> list[Unit]:
        """All units; those that read the same fold of the same corpus follow each other."""
        layouts: list[Any] = []
        for recipe in self.entries.values():
            if recipe.corpus not in layouts:
                layouts.append(recipe.corpus)
        return [
            Unit(name, fold, seed)
            for fold in self.folds
            for layout in layouts
            for seed in self.seeds
            for name, recipe in self.entries.items()
            if recipe.corpus == layout
        ]


def parse_numbers(text: str, option: str, least: int) -> list[int]:
    """`1-3,5` as [1, 2, 3, 5]; InputError for anything else, or below `least`."""
    numbers: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
        if last < first or first < least:
            raise InputError(
                f"got {option} {text!r}, wanted numbers from {least} on, e.g. 1-5 or 1,3,5"
            )
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def slug(name: str) -> str:
    """An entry's name as a directory's."""
    return _NOT_IN_A_NAME.sub("-", name).strip(".-")


def resolve(
    models: Sequence[str],
    recipe: str | None,
    *,
    overrides: Sequence[str] = (),
    corpus: str | None = None,
) -> dict[str, Recipe]:
    """The recipes of entries MODEL, RECIPE:MODEL or NAME=either, by name; commas separate entries.

    recipe: that of entries without their own. Raises InputError and RecipeError naming the entry.
    """
    entries: dict[str, Recipe] = {}
    slugs: dict[str, str] = {}
    unused = set(overrides)
    for text in (part.strip() for group in models for part in group.split(",")):
        name, equals, what = text.rpartition("=")
        name = name if equals else text
        other = slugs.setdefault(slug(name).lower(), name)
        if name in entries or other != name or not slug(name):
            raise InputError(
                f"--model {text!r} has no name of its own; call it otherwise: NAME={what}"
            )
        own, _, model = what.rpartition(":")
        source = own or recipe
        if model not in MODELS or source is None:
            raise InputError(
                f"got --model {text!r}, wanted MODEL (with --recipe), RECIPE:MODEL or "
                f"NAME=RECIPE:MODEL, where MODEL is one of {', '.join(MODELS)}"
            )
        entries[name], used = _load(name, source, model, overrides, corpus)
        unused -= set(used)
    for text in sorted(unused):
        say(f"note: --set {text} concerns none of {', '.join(entries)}")
    _require_one_corpus(entries)
    return entries


def _load(
    name: str, source: str, model: str, overrides: Sequence[str], corpus: str | None
) -> tuple[Recipe, list[str]]:
    """The recipe of an entry, and the overrides that concern it."""
    try:
        plain = load_recipe(source, model=model, corpus=corpus)
        used = [text for text in overrides if _concerns(plain, text)]
        return load_recipe(source, used, model=model, corpus=corpus), used
    except RecipeError as error:
        raise RecipeError(f"--model {name}: {error}") from error


def _concerns(recipe: Recipe, override: str) -> bool:
    """Whether an override is about something that the recipe's model has."""
    section = re.split(r"[.=]", override, maxsplit=1)[0]
    if recipe.network.model == "linear":
        return section not in ("network", "stage1", "stage2")
    return section != "stage2" or recipe.stage2 is not None


def _require_one_corpus(entries: dict[str, Recipe]) -> None:
    """Entries may prepare a corpus differently, but figures of two corpora cannot be compared."""
    first, *others = entries
    for name in others:
        mine, its = (_identity(entries[which]) for which in (first, name))
        if mine != its:
            raise InputError(
                f"--model {first} is on corpus {mine}, {name} on {its}; give --corpus RECIPE to "
                "put all on the same"
            )


def _identity(recipe: Recipe) -> str:
    layout = recipe.corpus
    name = getattr(layout, "name", None) or getattr(layout, "function", None) or "synthetic"
    labels = getattr(layout, "labels", None)
    return f"{name} ({', '.join(labels)})" if labels else str(name)
