"""Files of a checkpoint's front-ends, found by content, and golden signals that they answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.bundle import MANIFEST_NAME, Bundle
from ifmmin.runtime.errors import BackendUnavailable, InputError
from ifmmin.runtime.frontends.base import open_frontend, pack_signal
from ifmmin.runtime.frontends.sound import Sound
from ifmmin.runtime.frontends.spec import FileEntry, FrontEndSpec, Read, read_folder, reader_of
from ifmmin.runtime.modality import Modality

from .voice import voice

_SENTENCES = (
    "I am so happy that you came!",
    "Leave me alone. I do not want to talk about it, and you know why.",
)
_SECONDS = (1.5, 4.0)


class CarriedFiles:
    """Files of front-ends from the folders that were named, else from bundles that have them.

    Raises InputError where one is in neither, or where a folder holds another front-end.
    """

    def __init__(
        self,
        specs: Mapping[Modality, FrontEndSpec],
        folders: Mapping[Modality, Path],
        bundles: Sequence[Path],
    ) -> None:
        for modality in folders:
            if modality not in specs:
                raise InputError(
                    f"--frontend {modality}: the checkpoint names no front-end of {modality}; give "
                    f"its corpus one (corpus.files.{modality}.frontend) and train again"
                )
        self._specs = specs
        self._found = dict(_known(bundles))
        self.contents: dict[str, bytes] = {}
        """By name."""
        for modality, spec in specs.items():
            if modality in folders:
                self._found |= _folder(modality, spec, folders[modality])
            for entry in spec.files.values():
                content = self._read(modality, entry)
                if self.contents.setdefault(entry.file, content) != content:
                    raise InputError(
                        f"two front-ends have different files of the name {entry.file}; rename one "
                        "in its folder and in its frontend.json, extract and train again"
                    )

    def golden(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """`signal/MODALITY/NUMBER` and `features/MODALITY/NUMBER` of golden signals, of every
        front-end that can be opened here."""
        for modality, spec in self._specs.items():
            try:
                frontend = open_frontend(spec, lambda entry: self.contents[entry.file])
            except BackendUnavailable:
                continue  # of a package that is not here, or a user's own
            for number, signal in enumerate(_signals(modality)):
                yield f"signal/{modality}/{number}", pack_signal(signal)
                yield f"features/{modality}/{number}", frontend.whole(signal)

    def _read(self, modality: Modality, entry: FileEntry) -> bytes:
        if entry.sha256 not in self._found:
            spec = self._specs[modality]
            raise InputError(
                f"the front-end {spec.identity} of {modality} wants {entry.file} (sha256 "
                f"{entry.sha256[:12]}...), which the bundle that ships has not; give its folder: "
                f"--frontend {modality}=DIR"
            )
        read, found = self._found[entry.sha256]
        return read(found)


_Place = tuple[Read, FileEntry]


def _known(bundles: Sequence[Path]) -> Iterator[tuple[str, _Place]]:
    """By hash, where the files of the front-ends of some bundles lie."""
    for directory in bundles:
        if (directory / MANIFEST_NAME).is_file():
            for spec in Bundle(directory).manifest.modalities.values():
                for entry in spec.frontend.files.values() if spec.frontend else ():
                    yield entry.sha256, (reader_of(directory), entry)


def _folder(modality: Modality, wanted: FrontEndSpec, folder: Path) -> dict[str, _Place]:
    spec, read = read_folder(folder)
    if spec.identity != wanted.identity:
        raise InputError(
            f"--frontend {modality}: {folder} holds {spec.identity}, the checkpoint was trained on "
            f"features by {wanted.identity}; give that one"
        )
    return {entry.sha256: (read, entry) for entry in spec.files.values()}


def _signals(modality: Modality) -> Sequence[Any]:
    if modality is Modality.A:
        made = [voice(seconds, seed) for seed, seconds in enumerate(_SECONDS)]
        return [Sound(one.samples.astype(np.float32) / 32768, one.rate) for one in made]
    return _SENTENCES if modality is Modality.T else ()
