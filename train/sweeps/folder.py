"""The directory of a sweep: who may write it, what it was asked, which units are finished."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ifmmin.runtime.atomic import atomic_file, require_writable
from ifmmin.runtime.errors import IfmminError, OutputError, RecipeError
from ifmmin.train.recipe import Recipe
from ifmmin.train.sweeps.plan import Plan, Unit, slug

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
        import fcntl  # of POSIX alone

        self._require_ours()
        with (self.root / _LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"another sweep is at work in {self.root}; wait for it or choose another --out"
                ) from None
            yield

    def _require_ours(self) -> None:
        require_writable(self.root)
        if self.root.is_file():
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
        return path.read_text("utf-8").partition("\n")[0]

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
    old, new = (_flat(msgspec.to_builtins(recipe)) for recipe in (before, asked))
    return [
        f"{field} was {old.get(field)}, now {new.get(field)}"
        for field in dict.fromkeys([*old, *new])
        if old.get(field) != new.get(field) and field not in _PROSE
    ]


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
