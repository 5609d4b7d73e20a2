"""The report as Markdown, for a pull request or a page of documentation."""

from __future__ import annotations

from collections.abc import Sequence

from ifmmin.benchmarks.record import Report
from ifmmin.benchmarks.report.facts import caveats, headline
from ifmmin.benchmarks.report.sections import build_sections
from ifmmin.benchmarks.report.surroundings import Block, surroundings
from ifmmin.benchmarks.report.table import Section
from ifmmin.runtime.console import markdown_table

_ESCAPED = str.maketrans({"|": r"\|", "<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " "})


def render_markdown(report: Report) -> str:
    """Headings, tables and notes; ends with a newline."""
    blocks = [f"# {_plain(report.title)}", _plain(headline(report))]
    for section in build_sections(report):
        blocks += _section(section)
    for block in surroundings(report):
        blocks += _block(block)
    blocks += ["## Beware", "\n".join(f"- {_plain(caveat)}" for caveat in caveats(report))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _section(section: Section) -> list[str]:
    blocks = [f"## {section.title}", _plain(section.about)]
    for table in section.tables:
        blocks += [f"### {table.title}"] if table.title else []
        blocks += [_table(table.headers, table.rows), _plain(table.caption)]
    return [*blocks, *map(_plain, section.notes)]


def _block(block: Block) -> list[str]:
    content = block.content
    if isinstance(content, list):
        return [f"## {block.title}", _table(("what", "value"), content)]
    return [f"## {block.title}", _table(content.headers, content.rows), _plain(content.caption)]


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(
        [_plain(header) for header in headers], [[_plain(cell) for cell in row] for row in rows]
    )


def _plain(text: str) -> str:
    """Text that Markdown takes for no table, no tag and no new line."""
    return text.translate(_ESCAPED)
