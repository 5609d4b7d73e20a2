"""Tables that hold only what differs: a column with one and the same word goes into the caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Column(Generic[Item]):
    """One column of a table of items."""

    header: str
    cell: Callable[[Item], str]
    names: bool = False
    """It says what the row is: left aligned, and in the caption when all rows share it."""
    blank: str = ""
    """What an empty cell says where others in the column are not empty."""


@dataclass(frozen=True)
class Table:
    """Text in rows, the same for every way of showing it."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int
    """How many columns at the left say what the row is."""
    title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """One part of a report."""

    name: str
    """Of the scenario; also the anchor in HTML."""
    title: str
    about: str
    """What was done, and how the numbers are to be read."""
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = field(default=())


def build_table(
    items: Sequence[Item], columns: Sequence[Column[Item]], title: str = "", caption: str = ""
) -> Table:
    """Lay out items. Columns without a word are left out, shared names go before the caption."""
    cells = {column.header: [column.cell(item) for item in items] for column in columns}
    shown, shared = [], []
    for column in columns:
        words = cells[column.header]
        if not any(words):
            continue
        cells[column.header] = words = [word or column.blank for word in words]
        if column.names and len(items) > 1 and len(set(words)) == 1:
            shared.append(f"{column.header} {words[0]}")
        else:
            shown.append(column)
    everywhere = f"All rows: {', '.join(shared)}." if shared else ""
    return Table(
        headers=tuple(column.header for column in shown),
        rows=tuple(zip(*(cells[column.header] for column in shown), strict=True)),
        names=sum(column.names for column in shown),
        title=title,
        caption=" ".join(part for part in (everywhere, caption) if part),
    )
