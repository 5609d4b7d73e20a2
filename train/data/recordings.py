"""Recordings: rows of a table of sound, words, faces, labels and speakers, and their folds."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ifmmin.runtime.console import log_line, printable
from ifmmin.runtime.errors import CorpusError, one_line
from ifmmin.runtime.files import read_regular
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.prediction import check_labels

from .corpus import PARTS

SOURCES = {
    "sound": Modality.A, "text": Modality.T, "openface": Modality.V, "video": Modality.V,
}  # fmt: skip
"""Columns of signals: files relative to the table, and words as they are."""
NEEDED = ("id", "label", "speaker")
PART = "part"
"""Column of the parts of a single fold, in place of folds by speaker."""
LEAST_SPEAKERS = 3
"""One part of a fold each."""
_MOST_NAME = 300


@dataclass(frozen=True)
class Recording:
    """A row of the table."""

    name: str
    label: str
    speaker: str
    signals: dict[str, str]
    """By column: a path relative to the table's folder, or words."""
    part: str = ""
    """Train, validation or test, where the table says so."""


def read_table(path: Path) -> list[Recording]:
    """The rows of a CSV file in UTF-8. CorpusError with the first mistake in it and the number of
    others."""
    try:
        text = read_regular(path, CorpusError).decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not in UTF-8 ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise CorpusError(f"{path} is no table in CSV: {one_line(error)}") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(f"{path} cannot be read: {reason}") from error
    if not lines:
        raise CorpusError(f"{path} is no table in CSV: it is empty")
    columns, *rows = lines
    lacking = [name for name in NEEDED if name not in columns]
    if lacking or len(set(columns)) < len(columns) or not set(columns) & SOURCES.keys():
        raise CorpusError(
            f"{path}: got the columns {printable(', '.join(columns))[:99]}, wanted each once: "
            f"{', '.join(NEEDED)} and some of {', '.join(SOURCES)}"
        )
    unknown = [name for name in columns if name not in (*NEEDED, *SOURCES, PART)]
    if unknown:
        log_line(f"note: {path}: columns that are not used: {printable(', '.join(unknown))[:99]}")
    found, mistakes = [], []
    for line, cells in enumerate(rows, start=2):
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        if len(cells) != len(columns):
            mistakes.append(f"row {line}: got {len(cells)} cells, wanted {len(columns)}")
        else:
            mistakes += [f"row {line}: {mistake}" for mistake in _mistakes(row)]
        signals = {name: row[name] for name in SOURCES if row.get(name)}
        name, label, speaker = (row.get(column, "") for column in NEEDED)
        found.append(Recording(name, label, speaker, signals, row.get(PART, "")))
    parts = {one.part for one in found}
    if found and parts not in ({""}, {*PARTS}):
        got = ", ".join(part or "an empty one" for part in sorted(parts))
        mistakes.append(f"got the parts {printable(got)[:99]}, wanted {', '.join(PARTS)}, or none")
    for name, count in Counter(one.name for one in found).items():
        if count > 1:
            mistakes.append(f"id {printable(name)} stands {count} times, wanted once")
    if mistakes or not found:
        others = f"; and {len(mistakes) - 1} more mistakes" if len(mistakes) > 1 else ""
        raise CorpusError(f"{path}: {mistakes[0] if mistakes else 'it has no rows'}{others}")
    return found


def _mistakes(row: Mapping[str, str]) -> Iterator[str]:
    for name in NEEDED:
        if not row[name]:
            yield f"{name} is empty; only {', '.join(SOURCES)} may be"
    name = row["id"]
    if len(name) > _MOST_NAME - 9 or name != printable(name) or "/" in name or name in (".", ".."):
        yield f"got id {printable(name)[:99]!r}, wanted up to {_MOST_NAME - 9} that print, no /"
    if not any(row.get(column) for column in SOURCES):
        yield f"none of {', '.join(SOURCES)} is filled"
    if row.get("openface") and row.get("video"):
        yield "openface and video are both filled; both are of the face, give one"


def labels_of(recordings: Sequence[Recording], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The classes: those that are wanted, in their order, or all that occur, sorted.

    CorpusError where a label is not wanted, InputError where there are no two classes.
    """
    if wanted is not None:
        for one in recordings:
            if one.label not in wanted:
                raise CorpusError(
                    f"id {one.name}: got label {printable(one.label)[:99]!r}, wanted one of "
                    f"{', '.join(wanted)}; mend it, or name all by --labels"
                )
    labels = tuple(wanted) if wanted is not None else tuple(sorted({r.label for r in recordings}))
    check_labels(labels)
    return labels


Folds = list[dict[str, list[Recording]]]


def split(recordings: Sequence[Recording], folds: int | None) -> Folds:
    """Folds by speaker: of as many groups of speakers, one is tested, the next validates and the
    others train, in turn.

    folds: default 5, or one a speaker where they are fewer. A group gets, of the largest speakers
    first, who makes its counts of labels most even. Where the table names parts they are the only
    fold. CorpusError where there are too few speakers.
    """
    if recordings[0].part:
        if folds is not None:
            raise CorpusError(f"--folds {folds}: the table has a column {PART}; leave one out")
        named: dict[str, list[Recording]] = {part: [] for part in PARTS}
        for one in recordings:
            named[one.part].append(one)
        return [named]
    of: dict[str, list[Recording]] = {}
    for one in recordings:
        of.setdefault(one.speaker, []).append(one)
    count = min(5, len(of)) if folds is None else folds
    if len(of) < LEAST_SPEAKERS:
        raise CorpusError(
            f"got {len(of)} speaker{'s' if len(of) > 1 else ''}, wanted {LEAST_SPEAKERS} or more: "
            "one to train on, one to validate and one to test, whom training has not heard"
        )
    if not LEAST_SPEAKERS <= count <= len(of):
        raise CorpusError(
            f"--folds: got {count}, wanted {LEAST_SPEAKERS} to the {len(of)} speakers there are"
        )
    groups: list[list[Recording]] = [[] for _ in range(count)]
    held: list[Counter[str]] = [Counter() for _ in range(count)]
    for speaker in sorted(of, key=lambda name: (-len(of[name]), name)):
        own = Counter(one.label for one in of[speaker])
        # Of the squares of a group's counts, how much they would grow.
        growth = [sum(n * (n + 2 * counts[name]) for name, n in own.items()) for counts in held]
        chosen = min(range(count), key=lambda i: (growth[i], held[i].total()))
        groups[chosen] += of[speaker]
        held[chosen] += own
    found: Folds = []
    for number in range(count):
        rest = [g for i, g in enumerate(groups) if i not in (number, (number + 1) % count)]
        parts = ([one for g in rest for one in g], groups[(number + 1) % count], groups[number])
        found.append(dict(zip(PARTS, parts, strict=True)))
    return found
