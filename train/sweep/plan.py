"""Plan and directory of a sweep: entries x folds x seeds, and which units are finished.

One process at a time may write the directory.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from ifmmin.runtime.console import log_line
from ifmmin.runtime.errors import IfmminError, InputError, OutputError, RecipeError
from ifmmin.runtime.files import atomic_file, require_writable

from ..config import MODELS
from ..recipe import Recipe, load_recipe

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, order=True)
class Unit:
    """One training: an entry by its name, a fold, a seed."""

    entry: str
    fold: int
    seed: int

    def __str__(self) -> str:
        return f"{self.entry}, fold {self.fold}, seed {self.seed}"


class Varied(msgspec.Struct, frozen=True, kw_only=True):
    """An entry with one field of its recipe changed."""

    entry: str
    """Which."""
    key: str
    """The field, e.g. `corpus.train`."""
    value: str
    """What it is changed to."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what the units of a sweep give, besides the corpus's place."""

    entries: dict[str, Recipe]
    folds: list[int]
    seeds: list[int]
    threads: int
    """CPU threads of a unit: another number gives other rounding."""
    varied: dict[str, Varied] = {}
    """Which of the entries are others with one field changed."""

    def units(self) -> list[Unit]:
        """All units, fold by fold."""
        return [
            Unit(name, fold, seed)
            for fold in self.folds
            for seed in self.seeds
            for name in self.entries
        ]


_LARGEST, _MOST_NUMBERS = 2**32 - 1, 1000


def parse_numbers(text: str, option: str, least: int) -> list[int]:
    """`1-3,5` as [1, 2, 3, 5]; InputError for anything else, or below `least`."""
    numbers: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,10})\s*(?:-\s*(\d{1,10})\s*)?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
        if last < first or first < least or last > _LARGEST or last - first >= _MOST_NUMBERS:
            raise InputError(
                f"got {option} {text!r:.99}, wanted at most {_MOST_NUMBERS} numbers from {least} "
                "on, e.g. 1-5 or 1,3,5"
            )
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def slug(name: str) -> str:
    """An entry's name as a directory's."""
    return _NOT_IN_A_NAME.sub("-", name).strip(".-")


_CHANGE = re.compile(r"\+(?=[a-z0-9_.]+=)")


def resolve(
    models: Sequence[str],
    recipe: str | None,
    *,
    overrides: Sequence[str] = (),
    corpus: str | None = None,
) -> dict[str, Recipe]:
    """The recipes of entries MODEL, RECIPE:MODEL or NAME=either, by name; commas separate entries,
    and `+KEY=VALUE` after one, as often as wanted, changes a field of its recipe.

    recipe: that of entries without their own. Raises InputError and RecipeError naming the entry.
    """
    entries, unused = _resolve(models, recipe, overrides, corpus)
    for text in sorted(unused):
        log_line(f"note: --set {text} concerns none of {', '.join(entries)}")
    return entries


def vary(
    entries: Mapping[str, Recipe],
    variations: Sequence[str],
    models: Sequence[str],
    recipe: str | None,
    *,
    overrides: Sequence[str] = (),
    corpus: str | None = None,
) -> tuple[dict[str, Recipe], dict[str, Varied]]:
    """What `resolve` gave for the same arguments, and each entry once more for every value of every
    KEY=VALUE,VALUE... of `variations` that is not its own, one field at a time.

    Returns all entries, and of the new ones what they are.
    """
    every, varied = dict(entries), {}
    for text in variations:
        key, _, values = text.partition("=")
        if not key or not values:
            raise InputError(
                f"got --vary {text!r:.99}, wanted KEY=VALUE,VALUE, e.g. corpus.train=100,1600"
            )
        for value in values.split(","):
            setting = f"{key}={value}"
            changed, _ = _resolve(models, recipe, [*overrides, setting], corpus)
            same = [name for name in entries if changed[name] == entries[name]]
            if same and len(same) < len(entries):
                raise InputError(f"--vary {setting} changes nothing of {', '.join(same)}")
            for name in () if same else entries:
                every[f"{name} at {setting}"] = changed[name]
                varied[f"{name} at {setting}"] = Varied(entry=name, key=key, value=value)
    return every, varied


def _resolve(
    models: Sequence[str], recipe: str | None, overrides: Sequence[str], corpus: str | None
) -> tuple[dict[str, Recipe], set[str]]:
    """The entries, and the overrides that concern none of them."""
    entries: dict[str, Recipe] = {}
    slugs: dict[str, str] = {}
    unused = set(overrides)
    for text in (part.strip() for group in models for part in group.split(",")):
        head, *changes = _CHANGE.split(text)
        name, equals, what = head.rpartition("=")
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
        entries[name], used = _load(name, source, model, overrides, changes, corpus)
        unused -= set(used)
    _require_one_corpus(entries)
    return entries, unused


def _load(
    name: str,
    source: str,
    model: str,
    overrides: Sequence[str],
    changes: Sequence[str],
    corpus: str | None,
) -> tuple[Recipe, list[str]]:
    """The recipe of an entry, and the overrides that concern it; its own `changes` come last."""
    try:
        plain = load_recipe(source, model=model, corpus=corpus)
        used = [text for text in overrides if _concerns(plain, text)]
        return load_recipe(source, [*used, *changes], model=model, corpus=corpus), used
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
    told = f"{name} ({', '.join(labels)})" if labels else str(name)
    edges: tuple[float, ...] = getattr(layout, "bins", ())
    told += f", bins {', '.join(f'{edge:g}' for edge in edges)}" if edges else ""
    return told + (f", modalities {', '.join(recipe.modalities)}" if recipe.modalities else "")


_PLAN, _LOCK, _UNITS = "sweep.json", ".lock", "units"
_PROSE = ("name", "description")


class SweepFolder:
    """DIR/sweep.json, DIR/units/ENTRY/fold-N/seed-S and DIR/.lock."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other sweeps out; the lock goes with the process, however that ends.

        Raises OutputError when another sweep is at work, or something else is in the directory.
        """
        self._require_ours()
        try:
            held = FileLock(self.root / _LOCK).acquire(timeout=0)
        except Timeout:
            raise OutputError(
                f"another sweep is at work in {self.root}; wait for it or choose another --out"
            ) from None
        with held:
            yield

    def _require_ours(self) -> None:
        require_writable(self.root)
        if self.root.exists() and not self.root.is_dir():
            raise OutputError(f"cannot write {self.root}: a file is in the way; choose another")
        self.root.mkdir(exist_ok=True)
        visible = [path for path in self.root.iterdir() if not path.name.startswith(".")]
        if visible and not (self.root / _PLAN).is_file():
            raise OutputError(f"{self.root} is in use by something else; choose another --out")

    def path(self, unit: Unit) -> Path:
        """Where a unit's run is or will be."""
        return self.root / _UNITS / slug(unit.entry) / f"fold-{unit.fold}" / f"seed-{unit.seed}"

    def finished(self, unit: Unit) -> bool:
        """Whether the unit's run is there; it appears whole or not at all."""
        return self.path(unit).is_dir()

    def note(self, unit: Unit, reason: str | None, trace: str = "") -> None:
        """Keep why a unit failed beside its place, or forget it when `reason` is none."""
        path = self._note(unit)
        if reason is None:
            path.unlink(missing_ok=True)
        else:
            with atomic_file(path) as part:
                part.write_text(f"{reason}\n\n{trace}".rstrip() + "\n", encoding="utf-8")

    def failure(self, unit: Unit) -> str | None:
        """Why a unit failed when it was last tried; none when it did not or is finished."""
        path = self._note(unit)
        if self.finished(unit) or not path.is_file():
            return None
        return path.read_text("utf-8", "replace").partition("\n")[0]

    def _note(self, unit: Unit) -> Path:
        return self.path(unit).with_name(f"seed-{unit.seed}.error.txt")

    def remove_torn(self) -> None:
        """Remove what interrupted writers left behind."""
        for part in [*self.root.glob(".*.part"), *(self.root / _UNITS).glob("*/*/.*.part")]:
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)

    def extend(self, asked: Plan) -> Plan:
        """Add what is asked to what was asked before, keep that, and return the whole.

        Raises RecipeError when an entry or the threads changed, naming the fields.
        """
        before = self._read()
        if before is None:
            whole = asked
        else:
            _require_same(before, asked, self.root)
            whole = Plan(
                entries=before.entries | asked.entries,
                folds=sorted({*before.folds, *asked.folds}),
                seeds=sorted({*before.seeds, *asked.seeds}),
                threads=asked.threads,
                varied=before.varied | asked.varied,
            )
        if whole != before:
            with atomic_file(self.root / _PLAN) as part:
                part.write_bytes(msgspec.json.format(msgspec.json.encode(whole)) + b"\n")
        return whole

    def _read(self) -> Plan | None:
        path = self.root / _PLAN
        if not path.exists():
            return None
        try:
            return msgspec.json.decode(path.read_bytes(), type=Plan)
        except (OSError, msgspec.DecodeError, IfmminError) as error:
            raise OutputError(f"{path} cannot be read ({error}); choose another --out") from error


def _require_same(before: Plan, asked: Plan, root: Path) -> None:
    if before.threads != asked.threads:
        raise RecipeError(
            f"the units in {root} ran with --threads {before.threads}, got {asked.threads}; "
            "another number gives other rounding: keep it or choose another --out"
        )
    for name in asked.entries:
        if name in before.entries:
            changed = _differences(before.entries[name], asked.entries[name])
            if changed:
                raise RecipeError(
                    f"{name} is another recipe than in {root}: {'; '.join(changed)}; give it a "
                    f"name of its own (NAME={name}) or choose another --out"
                )


def _differences(before: Recipe, asked: Recipe) -> list[str]:
    """`field: old, now new` for every field that differs and matters."""
    old, new = (flat(msgspec.to_builtins(recipe)) for recipe in (before, asked))
    return [
        f"{field} was {old.get(field)}, now {new.get(field)}"
        for field in dict.fromkeys([*old, *new])
        if old.get(field) != new.get(field) and field not in _PROSE
    ]


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections within sections as one, with keys like `stage2.epochs`."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
