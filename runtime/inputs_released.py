"""Utterances by name from features in the released layout: one HDF5 file per modality.

FEATURES/A/comparE.h5  FEATURES/V/denseface.h5  FEATURES/L/bert_large.h5    dataset (T, D) per name

A file that lacks a name, or has no frames under it, has that modality missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.console import say
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.manifest import ModalitySpec
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.sources import Clip, Item, Source

FOLDERS = {Modality.A: "A", Modality.V: "V", Modality.T: "L"}

_LOOKED_AT = 16
"""Datasets by which a file is known."""
_BROKEN = (OSError, KeyError, ValueError, RuntimeError)
"""What h5py raises for files and names that are not there or damaged."""


def released_source(
    root: Path, names: Sequence[str], specs: Mapping[Modality, ModalitySpec], given: Sequence[str]
) -> Source:
    """The utterances `names` below `root`, each read in its turn.

    given: `a=A/comparE.h5`, for modalities whose folder has more than one file that fits. Raises
    InputError without h5py, for files that are not there or do not fit the bundle.
    """
    chosen = _given_files(root, given)
    paths = {
        m: chosen.get(m) or _find_file(root / FOLDERS[m], m, spec) for m, spec in specs.items()
    }
    files = {m: _open(path) for m, path in paths.items() if path is not None}
    if not files:
        wanted = ", ".join(f"{FOLDERS[m]}/*.h5" for m in specs)
        raise InputError(f"{root} holds none of {wanted}; is --features right?")
    for modality in files:
        if specs[modality].normalised:
            say(f"note: this bundle wants {modality} standardised; {paths[modality]} is as stored")
    return Source(len(names), partial(_items, names, files))


def read_names(argument: str) -> list[str]:
    """The names in `--ids`: separated by commas, or in a file: a line each, or a .npy of them."""
    path = Path(argument)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # too long for a path, or not one
        is_file = False
    if not is_file:
        names = argument.split(",")
    elif path.suffix == ".npy":
        names = _names_in_npy(path)
    else:
        try:
            names = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read as names, one a line ({error})") from error
    found = [name.strip() for name in names if name.strip()]
    if not found:
        raise InputError(f"--ids {argument!r} names no utterance; give ID,ID or a file of them")
    return found


def _names_in_npy(path: Path) -> list[str]:
    try:
        array = np.load(path, allow_pickle=False).reshape(-1)
        return [n.decode() if isinstance(n, bytes) else str(n) for n in array.tolist()]
    except (OSError, ValueError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as names ({error})") from error


def _given_files(root: Path, given: Sequence[str]) -> dict[Modality, Path]:
    found = {}
    for pair in given:
        letter, equals, file = pair.partition("=")
        if not equals or not file:
            raise InputError(f"--feature-file: got {pair!r}, wanted for example a=A/comparE.h5")
        found[Modality.of(letter)] = root / file
    return found


def _find_file(folder: Path, modality: Modality, spec: ModalitySpec) -> Path | None:
    """The one file of a folder whose datasets have the width that the bundle wants."""
    widths = {path: _widths(path) for path in sorted(folder.glob("*.h5"))}
    fitting = [path for path, found in widths.items() if spec.dim in found]
    if len(fitting) > 1:
        names = ", ".join(path.name for path in fitting)
        example = f"{modality}={folder.name}/{fitting[0].name}"
        raise InputError(f"{folder}: {names} all fit; name one with --feature-file {example}")
    others = [f"{path.name} has {min(found)}" for path, found in widths.items() if found]
    if others and not fitting:
        raise InputError(
            f"{folder}: no file has the {spec.dim} features a frame that the bundle wants "
            f"({'; '.join(others)}): {spec.features}"
        )
    return fitting[0] if fitting else None


def _widths(path: Path) -> set[int]:
    """Features per frame of the first datasets; none for a file of anything else."""
    with _open(path) as file:
        first = islice(file.values(), _LOOKED_AT)
        shapes: list[tuple[int, ...]] = [getattr(item, "shape", ()) for item in first]
        return {shape[1] for shape in shapes if len(shape) == 2}


def _open(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError("reading --features needs h5py; pip install h5py") from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} cannot be read as HDF5 ({error})") from error


def _items(names: Sequence[str], files: Mapping[Modality, Any]) -> Iterator[Item]:
    for name in names:
        yield Item(name, f"utterance {name}", partial(_read, name, files))


def _read(name: str, files: Mapping[Modality, Any]) -> Clip:
    found: dict[Modality, NDArray[Any]] = {}
    for modality, file in files.items():
        try:
            if name in file:
                found[modality] = np.asarray(file[name][()])
        except (*_BROKEN, AttributeError, TypeError) as error:
            raise InputError(f"{file.filename} gives no array ({error})") from error
    if not found:
        where = ", ".join(file.filename for file in files.values())
        raise InputError(f"in none of {where}")
    return Clip(name, found)
