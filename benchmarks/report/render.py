"""Report on a terminal, as Markdown, and as one HTML file.

The HTML has no script and takes nothing from the network; it is for light, dark and paper.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from ifmmin.runtime.console import markdown_table, print_table, write
from ifmmin.runtime.files import keep_fonts_in_cache

from ..record import Report
from .facts import Block, caveats, device_facts, headline, surroundings
from .sections import Section, Table, build_sections

_ESCAPED = str.maketrans({"|": r"\|", "<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " "})


def print_report(report: Report) -> None:
    """Print everything but the plots on standard output."""
    write(f"{report.title}\n")
    if line := headline(report):
        write(f"{line}\n")
    for section in build_sections(report):
        write(f"\n{section.title}. {section.about}\n")
        for table in section.tables:
            _print(table, table.title)
        for note in section.notes:
            write(note)
    for block in surroundings(report):
        write("")
        if isinstance(block.content, Table):
            _print(block.content, block.title)
        else:
            print_table([block.title, ""], block.content)
    write("")
    for caveat in caveats(report):
        write(f"- {caveat}")


def _print(table: Table, title: str) -> None:
    print_table(table.headers, table.rows, title or None)
    if table.caption:
        write(table.caption)


def render_markdown(report: Report) -> str:
    """Headings, tables and notes; ends with a newline."""
    blocks = [f"# {_markdown_text(report.title)}", _markdown_text(headline(report))]
    for section in build_sections(report):
        blocks += _markdown_section(section)
    for block in surroundings(report):
        blocks += _markdown_block(block)
    blocks += ["## Beware", "\n".join(f"- {_markdown_text(caveat)}" for caveat in caveats(report))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _markdown_section(section: Section) -> list[str]:
    blocks = [f"## {section.title}", _markdown_text(section.about)]
    for table in section.tables:
        blocks += [f"### {table.title}"] if table.title else []
        blocks += [_markdown_table(table.headers, table.rows), _markdown_text(table.caption)]
    return [*blocks, *map(_markdown_text, section.notes)]


def _markdown_block(block: Block) -> list[str]:
    content = block.content
    if isinstance(content, list):
        return [f"## {block.title}", _markdown_table(("what", "value"), content)]
    return [
        f"## {block.title}",
        _markdown_table(content.headers, content.rows),
        _markdown_text(content.caption),
    ]


def _markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(
        [_markdown_text(header) for header in headers],
        [[_markdown_text(cell) for cell in row] for row in rows],
    )


def _markdown_text(text: str) -> str:
    """Text that Markdown takes for no table, no tag and no new line."""
    return text.translate(_ESCAPED)


def render_html(report: Report) -> str:
    """The whole page, from report.html. What comes from the record is escaped."""
    page = Environment(
        loader=PackageLoader("ifmmin.benchmarks.report", ""), undefined=StrictUndefined,
        autoescape=True, trim_blocks=True, keep_trailing_newline=True,
    ).get_template("report.html")  # fmt: skip
    sections = build_sections(report)
    device = dict(device_facts(report))
    where = [device[name] for name in ("jetson", "gpu", "processor") if name in device][:1]
    return page.render(
        report=report,
        headline=headline(report),
        where=", ".join([*where, report.started]),
        sections=sections,
        figures=_figures(report, [section.name for section in sections]),
        surroundings=surroundings(report),
        caveats=caveats(report),
    )


def _figures(report: Report, names: Sequence[str]) -> dict[str, str] | None:
    """The figures of each section; none without matplotlib."""
    keep_fonts_in_cache()
    try:
        from .plots import draw_plots
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return None
    return {name: "\n".join(d.html() for d in draw_plots(report, name)) for name in names}
