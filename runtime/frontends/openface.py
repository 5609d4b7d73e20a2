"""OpenFace action units: 35 numbers a face from the CSV file that OpenFace 2 writes of a video.

Intensity (0 to 5) of 17 units and presence (0 or 1) of 18, in the order of its columns by
Baltrusaitis et al. (2018). OpenFace itself is the user's own; a file may be read while it grows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..console import printable
from ..errors import BundleError, InputError
from ..files import open_regular
from .base import Features, State, require_state
from .spec import FrontEndSpec, Read

_INTENSITY = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
_PRESENCE = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 28, 45)
COLUMNS = (*(f"AU{n:02}_r" for n in _INTENSITY), *(f"AU{n:02}_c" for n in _PRESENCE))
"""Of the file, in the order of the features."""
_PER = ("clip", "frame")
_PIECE_BYTES = 1 << 20
_LINE_BYTES = 1 << 16
"""Some ten times a line with all that OpenFace can write."""
_FILE_BYTES = 1 << 40
"""Read piece by piece, so that hours of video take no more memory than minutes."""


def specify(per: str = "clip") -> FrontEndSpec:
    """The specification of this front-end.

    per: `clip`, one frame, the mean of those in which the face was found; or `frame`, all of these.
    """
    if per not in _PER:
        raise InputError(f"openface per: got {per!r}, wanted {' or '.join(_PER)}")
    return FrontEndSpec(
        kind="openface",
        version=1,
        dim=len(COLUMNS),
        frame_rate=None,
        features="OpenFace 2 action units: 17 intensities, 18 presences",
        settings={"per": per},
    )


def open(spec: FrontEndSpec, read: Read, threads: int = 1) -> OpenFace:
    """The front-end of a specification, which has no files; BundleError for one of other make."""
    if spec.identity not in [specify(per).identity for per in _PER]:
        raise BundleError(
            f"front-end {spec.identity}: this version of ifmmin has openface version 1 alone, "
            f"{len(COLUMNS)} numbers per {' or '.join(_PER)}"
        )
    return OpenFace(spec)


class OpenFace:
    """Action units of OpenFace's CSV: the path of a file, or bytes of its content.

    Left out are frames whose `success` is 0 or that hold a number that is not finite. Of several
    faces the one counts that is found first.
    """

    _rest: bytes
    """The beginning of a line."""
    _read: int
    """Bytes of a file."""
    _lines: int
    _face: int
    """-1 where none was found yet."""
    _sum: NDArray[np.float64]
    """Of the frames of a clip so far."""
    _count: int

    def __init__(self, spec: FrontEndSpec) -> None:
        self._spec = spec
        self.reset()

    def describe(self) -> FrontEndSpec:
        """What it is."""
        return self._spec

    def whole(self, signal: str | Path | bytes) -> Features:
        """Features (T, 35), T at most 1 per clip; none where no face was found.

        Raises InputError for a file that cannot be read, is not OpenFace's, or is cut off.
        """
        return OpenFace(self._spec).stream(signal, last=True)

    def stream(self, signal: str | Path | bytes, *, last: bool = False) -> Features:
        """The frames (N, 35) that this piece completed; per clip the one there is at the `last`.

        signal: the next bytes of the content, or the path of a file that grows, which is read on
        from where it ended. After an InputError the front-end is as it was before.
        """
        before, name = self.state(), "the CSV" if isinstance(signal, bytes) else _shown(signal)
        rows: list[NDArray[Any]] = []
        try:
            for piece in self._pieces(signal):
                *lines, self._rest = (self._rest + piece).split(b"\n")
                for line in lines:
                    rows += self._row(line, name)
                if len(self._rest) > _LINE_BYTES:
                    raise InputError(
                        f"{name}: more than {_LINE_BYTES:,} bytes without the end of a line, "
                        "wanted a CSV file of OpenFace"
                    )
            if last:
                rows += self._row(self._rest, name)
                if self._count:
                    rows.append(self._sum / self._count)
                self.reset()
        except InputError:
            self.reset(before)
            raise
        return np.array(rows, np.float32).reshape(-1, len(COLUMNS))

    def reset(self, state: State | None = None) -> None:
        """Begin anew, or where `state` left off."""
        kept = _BEGINNING if state is None else require_state(state, _BEGINNING)
        header = kept["header"].tobytes()
        columns = _Columns.of(header, "state of a front-end") if header else None
        numbers = kept["numbers"].tolist()
        if min(*numbers[:3], numbers[3] + 1) < 0:
            raise InputError("state of a front-end: numbers below 0")
        self._header, self._columns = header, columns
        self._rest, self._sum = kept["rest"].tobytes(), kept["sum"].copy()
        self._read, self._lines, self._count, self._face = numbers

    def state(self) -> State:
        """What `reset` goes on from."""
        return {
            "header": np.frombuffer(self._header, np.uint8).copy(),
            "rest": np.frombuffer(self._rest, np.uint8).copy(),
            "numbers": np.array([self._read, self._lines, self._count, self._face], np.int64),
            "sum": self._sum.copy(),
        }

    @property
    def _per_clip(self) -> bool:
        return bool(self._spec.settings["per"] == "clip")

    def _pieces(self, signal: str | Path | bytes) -> Iterator[bytes]:
        """Bytes that were not read yet."""
        if isinstance(signal, bytes):
            yield signal
            return
        try:
            with open_regular(Path(signal), InputError, _FILE_BYTES) as file:
                if file.seek(0, 2) < self._read:
                    raise InputError(
                        f"{_shown(signal)} is shorter than what was read of it; begin anew: reset()"
                    )
                file.seek(self._read)
                while piece := file.read(_PIECE_BYTES):
                    self._read += len(piece)
                    yield piece
        # The last two: a zero byte in the path, and what is no path.
        except (OSError, ValueError, TypeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{_shown(signal)} cannot be read: {reason}") from error

    def _row(self, line: bytes, name: str) -> list[NDArray[np.float32]]:
        """The frame that a line completes, if it does."""
        self._lines += 1
        line = line.strip()
        if self._columns is None:
            self._columns = _Columns.of(line, name)
            self._header = line
            return []
        if not line:
            return []
        found = self._columns.read(line, f"{name}, line {self._lines}")
        if found is None or found[0] != self._face >= 0:
            return []
        self._face, units = found
        if not self._per_clip:
            return [units]
        self._sum += units
        self._count += 1
        return []


class _Columns(NamedTuple):
    """Where the values lie in a line."""

    width: int
    success: int
    face: int | None
    units: list[int]

    @classmethod
    def of(cls, header: bytes, name: str) -> _Columns:
        """Those of a first line; InputError where it is not OpenFace's."""
        names = [field.strip() for field in header.decode("utf-8-sig", "replace").split(",")]
        missing = [column for column in ("success", *COLUMNS) if column not in names]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise InputError(
                f"{name} has no column {', '.join(missing[:3])}{more}; wanted the CSV file that "
                "OpenFace 2 writes: FeatureExtraction -aus"
            )
        face = names.index("face_id") if "face_id" in names else None
        return cls(len(names), names.index("success"), face, [names.index(c) for c in COLUMNS])

    def read(self, line: bytes, where: str) -> tuple[int, NDArray[np.float32]] | None:
        """Face and action units of a line; None where no face was found."""
        fields = line.split(b",")
        if len(fields) != self.width:
            raise InputError(
                f"{where}: got {len(fields)} fields, wanted {self.width} as in the first line; a "
                "file that is still written can be streamed"
            )
        if not _number(fields[self.success], where):
            return None
        face = 0 if self.face is None else _number(fields[self.face], where)
        if not 0 <= face < 1 << 31:  # so is NaN
            raise InputError(f"{where}: got the face_id {face:g}, wanted a number from 0")
        with np.errstate(over="ignore"):  # then it is not finite
            units = np.array([_number(fields[index], where) for index in self.units], np.float32)
        return (int(face), units) if np.isfinite(units).all() else None


def _number(field: bytes, where: str) -> float:
    try:
        return float(field.partition(b"(")[0])  # Windows writes -nan(ind)
    except ValueError:
        got = printable(field[:40].decode("utf-8", "replace").strip())
        raise InputError(f"{where}: got '{got}', wanted a number") from None


def _shown(path: object) -> str:
    return printable(str(path))


_BEGINNING: State = {
    "header": np.zeros(0, np.uint8),
    "rest": np.zeros(0, np.uint8),
    "numbers": np.array([0, 0, 0, -1], np.int64),  # bytes read, lines, frames in the sum, face
    "sum": np.zeros(len(COLUMNS)),
}
