"""Readers of `ifmmin-run`: recordings, .npz files, directories and lines of JSON.

docs/run.md has the schema. An utterance is read when its turn comes.
"""

from __future__ import annotations

import math
import sys
import zipfile
import zlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files import (
    JSON_ERRORS,
    LINE_SHARE,
    line_limit_bytes,
    npy_header,
    open_regular,
    require_size,
)
from ..modality import MODALITIES, Modality
from ..validate import Utterance

Frames = list[list[float | None]]
Content = TypeVar("Content")


class Quality(msgspec.Struct, forbid_unknown_fields=True):
    """How far each modality can be trusted, where that is known."""

    a: float | None = None
    v: float | None = None
    t: float | None = None

    @property
    def scores(self) -> dict[str, float]:
        """Those that are known, per letter."""
        given = msgspec.structs.asdict(self)
        return {letter: score for letter, score in given.items() if score is not None}


def decode_line(decoder: msgspec.json.Decoder[Content], line: bytes, example: str) -> Content:
    """What a line of JSON holds; InputError says where in it something else was found.

    example: what would have been right.
    """
    if len(line) > line_limit_bytes():
        require_size(len(line) * LINE_SHARE, "the line, once read,", InputError)
    try:
        return decoder.decode(line)
    except JSON_ERRORS as error:
        raise InputError(_explain(line, str(error), example)) from None


def frames_by_letter(**given: Frames | None) -> dict[str, NDArray[np.float64]]:
    """Frames (T, D) of each modality that is given, with NaN for null.

    Raises InputError for frames that are not equally long.
    """
    return {letter: _array(letter, x) for letter, x in given.items() if x is not None}


def numbered(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, each with its number from 1; blank ones are counted.

    One that is too long comes cut, by which `decode_line` knows it; its rest is not kept.
    """
    number, most = 0, line_limit_bytes() + 1
    while line := file.readline(most):
        number, rest = number + 1, line
        while len(rest) == most and not rest.endswith(b"\n"):
            rest = file.readline(most)
        if line.strip():
            yield number, line


@contextmanager
def readable(reader: object) -> Iterator[None]:
    """InputError in place of what the system says of a source that cannot be read."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{reader} cannot be read: {error.strerror}") from error


def _array(letter: str, frames: Frames) -> NDArray[np.float64]:
    for index, frame in enumerate(frames):
        if len(frame) != len(frames[0]):
            raise InputError(
                f"modality {letter}: frame {index} has {len(frame)} numbers, frame 0 has "
                f"{len(frames[0])}; wanted as many in each"
            )
    return np.array(frames, dtype=np.float64)


def _explain(line: bytes, reason: str, example: str) -> str:
    if "JSON is malformed" in reason and any(word in line for word in (b"NaN", b"Infinity")):
        return f"{reason}; JSON has no NaN, write null for it"
    return f"{reason}; wanted an object such as {example}"


@dataclass(frozen=True)
class Signals:
    """What front-ends make features of."""

    sound: Path | None = None
    text: str | None = None
    face: Path | None = None
    """An OpenFace CSV."""

    def of(self, takes: Container[Modality]) -> Signals:
        """Those that were named, and of what lies beside the sound those that a bundle takes."""
        text = self.text if self.sound is None or Modality.T in takes else None
        return Signals(self.sound, text, self.face if Modality.V in takes else None)


@dataclass(frozen=True)
class Sample:
    """One input to answer: features of an utterance, or signals of one or more."""

    name: str
    utterance: Utterance
    quality: Mapping[str, float] = field(default_factory=dict)
    """Per letter a score that came with it."""
    frontends: Mapping[str, str] = field(default_factory=dict)
    """Per letter the identity of what made the features, where it is named."""
    signals: Signals | None = None
    """In place of features."""


@dataclass(frozen=True)
class LazySample:
    """One input that is not read yet."""

    name: str
    """What the answer is called if the input has no name of its own."""
    where: str
    """What messages call it: a path, or a file and a line."""
    read: Callable[[], Sample]
    """Raises InputError."""


@dataclass(frozen=True)
class Reader:
    """Inputs that come one after the other."""

    count: int | None
    """How many; None: known only at the end."""
    items: Callable[[], Iterator[LazySample]]
    sounds: tuple[Path, ...] = ()
    """Recordings among them."""


_EXAMPLE = '{"id": "clip1", "a": [[0.1, 0.2], [0.3, 0.4]], "t": null}'


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    id: str | int | None = None
    a: Frames | None = None
    v: Frames | None = None
    t: Frames | None = None
    quality: Quality | None = None
    sound: str | None = None
    text: str | None = None
    frontends: dict[str, str] = {}


_decoder = msgspec.json.Decoder(_Line)


def jsonl_file(path: Path) -> Reader:
    """The lines of a file; InputError when it cannot be read."""
    with readable(path), open_lines(path) as file:
        count = sum(1 for _ in numbered(file))
    if not count:
        raise InputError(f"{path} is empty; each line is an utterance, such as {_EXAMPLE}")
    return Reader(count, lambda: _file_items(path))


def jsonl_stdin() -> Reader:
    """The lines of standard input, each handed on before the next one is read."""
    return Reader(None, _stdin_items)


def read_line(line: bytes, name: str, beside: Path = Path()) -> Sample:
    """The utterance in one line of JSON; InputError says where in the line it is not one.

    name: for a line without `id`. beside: directory from which paths of recordings start.
    """
    content = decode_line(_decoder, line, _EXAMPLE)
    features = frames_by_letter(a=content.a, v=content.v, t=content.t)
    signals = None
    if content.sound is not None or content.text is not None:
        if features:
            raise InputError("got features and signals; give a, v, t, or sound and text")
        sound = None if content.sound is None else beside / content.sound
        signals = Signals(sound, content.text)
    return Sample(
        name if content.id is None else str(content.id),
        features,
        content.quality.scores if content.quality else {},
        content.frontends,
        signals,
    )


def _file_items(path: Path) -> Iterator[LazySample]:
    with readable(path), open_lines(path) as file:
        yield from _items(file, str(path), path.parent)


def _stdin_items() -> Iterator[LazySample]:
    with readable("stdin"):
        yield from _items(standard_input(), "stdin", Path())


def open_lines(path: Path) -> BinaryIO:
    """A file that is read line by line, as long as it may be."""
    return open_regular(path, InputError, sys.maxsize)


def standard_input() -> BinaryIO:
    """The bytes of standard input; InputError where it is closed."""
    if sys.stdin is None:
        raise InputError("standard input is closed; give lines of JSON there, or name a file")
    return sys.stdin.buffer


def _items(file: BinaryIO, reader: str, beside: Path) -> Iterator[LazySample]:
    for number, line in numbered(file):
        name = f"{Path(reader).name}:{number}"
        yield LazySample(name, f"{reader}, line {number}", partial(read_line, line, name, beside))


STDIN = "-"


def find_inputs(arguments: Sequence[str], text: str | None = None) -> Reader:
    """All inputs meant by `arguments`, directories in order of names; InputError if one is not.

    text: what is said in the one recording that is named, or an input by itself.
    """
    from .recordings import with_text

    readers = list(with_text(text, arguments))
    if not readers:
        readers = [reader for argument in arguments for reader in _readers(argument)]
    known = [reader.count for reader in readers if reader.count is not None]
    return Reader(
        sum(known) if len(known) == len(readers) else None,
        lambda: chain.from_iterable(reader.items() for reader in readers),
        tuple(path for reader in readers for path in reader.sounds),
    )


def _readers(argument: str) -> Iterator[Reader]:
    with readable(argument):
        yield from _readers_of(argument, Path(argument))


def _readers_of(argument: str, path: Path) -> Iterator[Reader]:
    from .recordings import SOUNDS, is_sound, recording

    if argument == STDIN:
        yield jsonl_stdin()
    elif (path / "manifest.json").is_file():
        raise InputError(f"{path} is a bundle, not an input; name it by -b {path}")
    elif path.is_dir():
        inside = [p for p in sorted(path.iterdir()) if p.suffix == ".npz" or is_sound(p)]
        if not inside:
            raise InputError(f"{path} holds no recording ({', '.join(SOUNDS)}) and no .npz file")
        yield from (recording(p) if is_sound(p) else _npz_file(p) for p in inside)
    elif not path.exists():
        raise InputError(
            f"no input at {path}; give recordings, .npz files, directories of them, .jsonl files, "
            "or - to read lines of JSON from standard input"
        )
    elif path.suffix == ".jsonl":
        yield jsonl_file(path)
    elif path.suffix == ".npz":
        yield _npz_file(path)
    elif is_sound(path):
        yield recording(path)
    else:
        raise InputError(
            f"{path}: got a {path.suffix or 'nameless'} file, wanted {', '.join(SOUNDS)}, .npz or "
            ".jsonl"
        )


def _npz_file(path: Path) -> Reader:
    lazy = LazySample(path.stem, str(path), partial(_read_npz, path))
    return Reader(1, lambda: iter([lazy]))


def _read_npz(path: Path) -> Sample:
    """The arrays of one .npz; InputError for another file, other names or pickled objects."""
    try:
        with open_regular(path, InputError) as file, zipfile.ZipFile(file) as archive:
            arrays = dict(_arrays(archive))
    except _UNREADABLE as error:
        raise InputError(f"cannot be read as .npz ({error}); save it with numpy.savez") from error
    named = {m.value: arrays.pop(f"frontend_{m}") for m in MODALITIES if f"frontend_{m}" in arrays}
    return Sample(path.stem, arrays, frontends={m: str(x) for m, x in named.items()})


def _arrays(archive: zipfile.ZipFile) -> Iterator[tuple[str, NDArray[Any]]]:
    members = archive.infolist()
    names = [member.filename.removesuffix(".npy") for member in members]
    known = {name for m in MODALITIES for name in (m.value, f"frontend_{m}")}
    unknown = sorted(set(names) - known)
    if unknown:
        raise InputError(f"unknown array {unknown[0]!r}; name them a, v, t")
    if len(set(names)) < len(names):
        raise InputError(f"got arrays {', '.join(names)}; name each once")
    # Before any of it is unpacked: a small archive may unfold to more than there is memory.
    require_size(sum(member.file_size for member in members), "unpacked it", InputError)
    for name, member in zip(names, members, strict=True):
        with archive.open(member) as file:
            yield name, _read_array(file, member.file_size, "U" if len(name) > 1 else "fiub")


def _read_array(file: IO[bytes], size: int, kinds: str) -> NDArray[Any]:
    """An array in the .npy format, in `size` bytes."""
    shape, by_columns, dtype = npy_header(file, InputError)
    if dtype.kind not in kinds:
        raise InputError(f"got an array of {dtype}, wanted {'text' if kinds == 'U' else 'numbers'}")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > size:
        raise InputError(f"its header says {shape}, which is more than the file holds")
    content = bytearray(file.read(wanted))
    return np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")


_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,  # an archive whose directory names what it does not hold
    RuntimeError,  # encrypted, or packed in a way that zipfile does not know
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy and zipfile raise for damaged files."""
