"""Inputs of `ifmmin-run`, by what the command line calls them: files, directories, `-`."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.inputs_jsonl import jsonl_file, jsonl_stdin
from ifmmin.runtime.modality import MODALITIES
from ifmmin.runtime.sources import Clip, Item, Source

STDIN = "-"


def find_inputs(arguments: Sequence[str]) -> Source:
    """All inputs meant by `arguments`, directories in order of names; InputError if one is not."""
    sources = [source for argument in arguments for source in _sources(argument)]
    known = [source.count for source in sources if source.count is not None]
    return Source(
        sum(known) if len(known) == len(sources) else None,
        lambda: chain.from_iterable(source.items() for source in sources),
    )


def _sources(argument: str) -> Iterator[Source]:
    path = Path(argument)
    if argument == STDIN:
        yield jsonl_stdin()
    elif path.is_dir():
        inside = sorted(path.glob("*.npz"))
        if not inside:
            raise InputError(f"{path} holds no .npz file; each holds the arrays a, v, t")
        yield from map(_npz_file, inside)
    elif not path.exists():
        raise InputError(
            f"no input at {path}; give .npz files, directories of them, .jsonl files, or - to read "
            "lines of JSON from standard input"
        )
    elif path.suffix == ".jsonl":
        yield jsonl_file(path)
    elif path.suffix == ".npz":
        yield _npz_file(path)
    else:
        raise InputError(f"{path}: got a {path.suffix or 'nameless'} file, wanted .npz or .jsonl")


def _npz_file(path: Path) -> Source:
    item = Item(path.stem, str(path), partial(_read_npz, path))
    return Source(1, lambda: iter([item]))


def _read_npz(path: Path) -> Clip:
    """The arrays of one .npz; InputError for another file, other names or pickled objects."""
    try:
        # Opened here: numpy leaves a file open that it finds damaged.
        with path.open("rb") as file:
            return Clip(path.stem, _arrays(np.load(file, allow_pickle=False)))
    except _UNREADABLE as error:
        raise InputError(f"cannot be read as .npz ({error})") from error


def _arrays(archive: Any) -> dict[str, NDArray[Any]]:
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise InputError("not an .npz archive; save it with numpy.savez")
    with archive:
        unknown = sorted(set(archive.files) - {m.value for m in MODALITIES})
        if unknown:
            raise InputError(f"unknown array {unknown[0]!r}; name them a, v, t")
        return {name: archive[name] for name in archive.files}


_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,  # an archive whose directory names what it does not hold
    MemoryError,  # a damaged header that promises more than there is
    RuntimeError,  # encrypted, or packed in a way that zipfile does not know
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy and zipfile raise for damaged files."""
