"""Writers of `ifmmin-run`: predictions as a table, as lines of JSON or as CSV.

Lines are written as predictions come; a file appears whole, when all of them are there.
"""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..console import csv_row, json_line
from ..errors import OutputError
from ..files import atomic_file, require_writable_file
from ..prediction import Prediction

FORMATS = ("table", "json", "csv")

Write = Callable[[str], None]
"""Takes a line without its end."""
ShowTable = Callable[[Sequence[str], Sequence[Sequence[str]], str], None]
"""Takes headers, rows and a title."""


@dataclass(frozen=True)
class Answer:
    """A prediction with the name of its input."""

    name: str
    prediction: Prediction
    label: str | None
    """The winner; None where it was not sure enough."""
    ranking: list[tuple[str, float]]
    """The most probable classes with their probabilities, best first; empty: not asked for."""
    span: tuple[float, float] | None = None
    """From where to where in a recording, in seconds."""


class Writer(ABC):
    """Something that answers are written on."""

    @abstractmethod
    def add(self, answer: Answer) -> None:
        """Write down one answer."""

    def fail(self, name: str, message: str) -> None:  # noqa: B027 - most have no place for it
        """Write down that an input has no answer, where that helps."""

    def close(self) -> None:  # noqa: B027 - most have written all by then
        """Write what can be written only when all is known."""


class TableWriter(Writer):
    """A table, shown at the end, when the widths of its columns are known."""

    def __init__(self, labels: Sequence[str], top_k: int, show: ShowTable) -> None:
        shares = [f"top {rank}" for rank in range(1, top_k + 1)] or list(labels)
        self._headers = ["pattern", "emotion", *shares, "ms"]
        self._show = show
        self._rows: list[list[str]] = []
        self._spans: list[list[str]] = []
        self._backends: dict[str, None] = {}

    def add(self, answer: Answer) -> None:
        """Keep a row."""
        prediction = answer.prediction
        shares = [f"{label} {p:.3f}" for label, p in answer.ranking]
        self._rows.append(
            [
                str(prediction.pattern or "-"),
                answer.label or "-",
                *(shares or [f"{p:.3f}" for p in prediction.probabilities]),
                f"{prediction.seconds * 1e3:.2f}",
            ]
        )
        times = [f"{seconds:.1f}" for seconds in answer.span or ()]
        self._spans.append([answer.name, *(times or ["", ""])])
        self._backends[prediction.backend] = None

    def close(self) -> None:
        """Show the rows, if there are any."""
        if not self._rows:
            return
        timed = len({name for name, *_ in self._spans}) < len(self._spans)
        before = ["input", "from s", "to s"] if timed else ["input"]
        rows = [s[: len(before)] + r for s, r in zip(self._spans, self._rows, strict=True)]
        self._show(before + self._headers, rows, f"backend: {', '.join(self._backends)}")


class JsonWriter(Writer):
    """An object a line, for inputs without an answer too: who waits for a line gets one."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def add(self, answer: Answer) -> None:
        """Write the answer's line."""
        span = dict(zip(("start", "end"), answer.span or (), strict=False))
        content = {
            "input": answer.name, **span, **answer.prediction.to_dict(), "label": answer.label
        }  # fmt: skip
        if answer.ranking:
            content["top"] = [{"label": label, "probability": p} for label, p in answer.ranking]
        self._write(json_line(content))

    def fail(self, name: str, message: str) -> None:
        """Write the name and what is wrong."""
        self._write(json_line({"input": name, "error": message}))


class CsvWriter(Writer):
    """A header and a row an answer."""

    def __init__(self, labels: Sequence[str], top_k: int, write: Write, timed: bool) -> None:
        self._write = write
        self._timed = timed
        ranks = range(1, top_k + 1)
        shares = [word for rank in ranks for word in (f"top{rank}", f"probability{rank}")]
        end = ("backend", "seconds", "absent", "dropped_frames")
        times = ("start", "end") if timed else ()
        self._row("input", *times, "pattern", "label", *(shares or labels), *end)

    def add(self, answer: Answer) -> None:
        """Write the answer's row."""
        prediction = answer.prediction
        shares = [value for pair in answer.ranking for value in pair]
        times = answer.span or ("", "")
        self._row(
            answer.name,
            *(times if self._timed else ()),
            prediction.pattern or "-",
            answer.label or "-",
            *(shares or prediction.probabilities.tolist()),
            prediction.backend,
            prediction.seconds,
            "; ".join(f"{m}: {reason}" for m, reason in prediction.absent.items()),
            "; ".join(f"{m}: {n}" for m, n in prediction.dropped.items()),
        )

    def _row(self, *values: object) -> None:
        self._write(csv_row(values))


def make_writer(
    layout: str, labels: Sequence[str], top_k: int, write: Write, show: ShowTable, timed: bool
) -> Writer:
    """The writer of one of FORMATS.

    top_k: columns of the best classes; 0: one for each class. timed: CSV has columns of times.
    """
    if layout == "json":
        return JsonWriter(write)
    if layout == "csv":
        return CsvWriter(labels, top_k, write, timed)
    return TableWriter(labels, top_k, show)


LAYOUT_OF = {".csv": "csv", ".jsonl": "json", ".json": "json"}
"""What a file is by its suffix."""
_IN_MEMORY_BYTES = 1 << 24


@contextmanager
def saved_lines(path: Path) -> Iterator[Write]:
    """Give a function that takes lines; after the block they are the content of `path`.

    Lines wait in an unnamed temporary file, so after an error or Ctrl-C a file that stood at
    `path` is untouched. Raises OutputError at once where nothing can be written.
    """
    require_writable_file(path)
    with tempfile.SpooledTemporaryFile(
        _IN_MEMORY_BYTES, "w+", encoding="utf-8", newline=""
    ) as kept:

        def write(text: str) -> None:
            try:
                kept.write(text + "\n")
            except OSError as error:
                raise OutputError(f"cannot keep lines for {path}: {error.strerror}") from error

        yield write
        kept.seek(0)
        with atomic_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
            shutil.copyfileobj(kept, file)
