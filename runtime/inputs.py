"""Inputs of `ifmmin-run`: .npz files with arrays a, v, t, and directories of them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import MODALITIES
from ifmmin.runtime.validate import Utterance


def find_inputs(arguments: Sequence[str]) -> list[Path]:
    """The .npz files meant by `arguments`, directories in order of names; InputError if none."""
    found: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = sorted(path.glob("*.npz"))
            if not inside:
                raise InputError(f"{path} holds no .npz file; each holds the arrays a, v, t")
            found += inside
        elif not path.exists():
            raise InputError(f"no input at {path}; give .npz files or directories of them")
        elif path.suffix != ".npz":
            raise InputError(f"{path}: got a {path.suffix or 'nameless'} file, wanted .npz")
        else:
            found.append(path)
    return found


def read_npz(path: Path) -> Utterance:
    """The arrays of one .npz; InputError for another file, other names or pickled objects."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files if isinstance(archive, np.lib.npyio.NpzFile) else None
            if names is None:
                raise InputError(f"{path} is not an .npz archive; save it with numpy.savez")
            unknown = sorted(set(names) - {m.value for m in MODALITIES})
            if unknown:
                raise InputError(f"{path}: unknown array {unknown[0]!r}; name them a, v, t")
            return {name: archive[name] for name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as .npz ({error})") from error


def read_inputs(paths: Sequence[Path]) -> Iterator[tuple[Path, Utterance]]:
    """Read one file after the other, so that a large directory never lies in memory whole."""
    for path in paths:
        yield path, read_npz(path)
