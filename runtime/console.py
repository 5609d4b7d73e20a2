"""Console of the commands: lines, progress and tables, and text of others made safe for its place.

Answers go to standard output, everything else to standard error; `ifmmin.runtime.cli.app` has exit
codes and the options that all commands share.
"""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Literal, Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .errors import OutputError


def package_version() -> str:
    """The installed version of ifmmin, or `unknown` when run from a plain tree."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, seldom wanted

    try:
        return version("ifmmin")
    except PackageNotFoundError:
        return "unknown"


def printable(text: str, kept: str = "") -> str:
    """Text as a terminal may show it: what would move the cursor or the order is spelt out.

    kept: characters that pass although they are not to be seen, such as the end of a line.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else _spelt(c) for c in text)


def _spelt(character: str) -> str:
    wide = character.isspace() and character > "\x9f" and character not in "\u2028\u2029"
    return character if wide else ascii(character)[1:-1]


_FORMULA, _QUOTED = re.compile(r"'*[=+\-@]"), re.compile(r"'+[=+\-@]")
"""How a cell begins that a spreadsheet would compute, or that reads as if it had been quoted."""


def csv_row(values: Iterable[object]) -> str:
    """A row of CSV without its end, of which no text is taken for a formula."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([_cell(value) for value in values])
    return text.getvalue()


def csv_rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """The rows that `csv_row` wrote, with every text that prints as it was."""
    for row in csv.reader(lines):
        yield [cell[1:] if _QUOTED.match(cell) else cell for cell in row]


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if len(shown) > 1 and _FORMULA.match(shown) else shown


def json_line(content: object) -> str:
    """JSON in one line, in which what does not print is escaped and nothing is not a number."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return text if text.isprintable() else _UNPRINTED.sub(_escape, text)


_UNPRINTED = re.compile(r"[^ -~]")


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]


_MARKUP = re.compile(r"([\\`*_{}\[\]()#|~])")


def escaped(text: str) -> str:
    """Text as it stands for itself in Markdown, and in the HTML that becomes of it."""
    return html.escape(_MARKUP.sub(r"\\\1", printable(text)))


_PLAIN_EVERY_SECONDS = 5.0


class Advance(Protocol):
    """Tells of a step that was done, or of several."""

    def __call__(self, note: str, steps: int = 1) -> None:
        """note: what stands beside the progress now."""
        ...


"""Called once per finished step with a short note (`""` for none)."""


Level = Literal["detail", "note", "error"]
_shown: dict[Level, bool] = {"detail": False, "note": True, "error": True}


def set_verbosity(*, verbose: bool = False, quiet: bool = False) -> None:
    """Which lines are shown from now on: details too, or errors alone; notes by default."""
    _shown["detail"], _shown["note"] = verbose, not quiet


def is_verbose() -> bool:
    """Whether details are shown."""
    return _shown["detail"]


def log_line(line: str, level: Level = "note") -> None:
    """Print one line for the user on standard error; answers go to standard output."""
    if not _shown[level]:
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    with suppress(OSError):  # closed or full: what failed is told by the exit code alone
        console.print(printable(line, "\n"))


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Show the progress of `total` steps on standard error.

    A bar on a terminal; elsewhere a line at most every few seconds and always one at the end.
    """
    if not _shown["note"]:
        yield lambda note, steps=1: None
    elif sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield advance
    else:
        yield _plain(title, total)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    # Answers on standard output stay there: rich would lead them to the bar's terminal.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda note, steps=1: bar.update(task, advance=steps, note=note)


def _plain(title: str, total: int) -> Advance:
    done = 0
    last = time.monotonic()

    def advance(note: str, steps: int = 1) -> None:
        nonlocal done, last
        done += steps
        now = time.monotonic()
        if done == total or now - last >= _PLAIN_EVERY_SECONDS:
            last = now
            log_line(f"{title} {done}/{total} {note}".rstrip())

    return advance


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None
) -> None:
    """Print a table on standard output: drawn by rich on a terminal, aligned Markdown elsewhere."""
    if not sys.stdout.isatty():
        if title:
            write(f"{title}\n")
        write(markdown_table(headers, rows))
        return
    table = Table(title=title)
    for column, header in enumerate(headers):
        table.add_column(header, justify="left" if column == 0 else "right")
    for row in rows:
        table.add_row(*map(printable, row))
    draw(table)


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are also aligned for reading as plain text."""
    rows = [[printable(cell) for cell in row] for row in rows]
    # Two at least: Markdown's rule of a column on the right is a dash and a colon.
    widths = [max(2, *map(len, column)) for column in zip(headers, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [
        "-" * width if index == 0 else "-" * (width - 1) + ":" for index, width in enumerate(widths)
    ]
    return "\n".join([line(headers), line(rule), *(line(row) for row in rows)])


def write(text: str) -> None:
    """Write `text` and a newline to standard output, untouched, and flush it.

    Raises BrokenPipeError where its reader has gone, OutputError where it is full.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        give_up_output()
        raise
    except OSError as error:
        give_up_output()
        raise OutputError(
            f"cannot write to standard output: {error.strerror or error}; lead it elsewhere"
        ) from error


def draw(drawn: RenderableType, width: int | None = None) -> None:
    """Write what rich draws, as `write` does: by itself it would end the program."""
    console = Console(highlight=False, markup=False, width=width)
    with console.capture() as captured:
        console.print(drawn)
    write(captured.get().rstrip("\n"))


def give_up_output() -> None:
    """Let nothing more go to standard output, which Python would flush once more at its end."""
    with suppress(OSError, ValueError):  # ValueError: no descriptor, as where it is captured
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
