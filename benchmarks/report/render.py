"""Report on a terminal, as Markdown, and as one HTML file.

The HTML has no script and takes nothing from the network; it is for light, dark and paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from ifmmin.runtime.console import markdown_table, print_table, write

from ..record import Report
from .facts import Block, Facts, caveats, device_facts, headline, surroundings
from .sections import Section, Table, build_sections

_ESCAPED = str.maketrans({"|": r"\|", "<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " "})
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{lead}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""
_RUN = ("run", "The run")
NO_PLOTS = "This page has no plots, for want of matplotlib: pip install 'ifmmin[bench]'."
"""What the page says where plots cannot be drawn."""


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
    """The whole page. What comes from the record is escaped."""
    sections = build_sections(report)
    figures, missing = _figures(report, [section.name for section in sections])
    body = list(map(_section, sections, figures))
    places = [*((section.name, section.title) for section in sections), _RUN]
    return _PAGE.format(
        title=escape(report.title),
        style=files("ifmmin.benchmarks.report").joinpath("style.css").read_text("utf-8"),
        lead=_lead(report) + missing,
        links="".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title in places),
        body="\n".join([*body, _surroundings(report)]),
    )


def _lead(report: Report) -> str:
    """The run in a sentence, and where and when."""
    device = dict(device_facts(report))
    where = [device[name] for name in ("jetson", "gpu", "processor") if name in device][:1]
    place = escape(", ".join([*where, report.started]))
    line = headline(report)
    said = f'<p class="lead">{escape(line)}</p>\n' if line else ""
    return f'{said}<p class="where">{place}</p>'


def _figures(report: Report, names: Sequence[str]) -> tuple[list[str], str]:
    """The figures of each section; without matplotlib none, and a line that says so."""
    try:
        from .plots import draw_plots
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return [""] * len(names), f'\n<p class="where">{NO_PLOTS}</p>'
    return ["\n".join(d.html() for d in draw_plots(report, name)) for name in names], ""


def _section(section: Section, figures: str) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>", f"<p>{escape(section.about)}</p>", figures]
    parts += (_table(table, section.title) for table in section.tables)
    if section.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in section.notes)
        parts.append(f'<ul class="notes">{notes}</ul>')
    return f'<section id="{section.name}">\n' + "\n".join(parts) + "\n</section>"


def _table(table: Table, label: str) -> str:
    """A table in a box that scrolls by itself; on a phone a row becomes a few lines."""
    head = "".join(
        f'<th scope="col"{_name(index < table.names)}>{escape(text)}</th>'
        for index, text in enumerate(table.headers)
    )
    before: Sequence[str] = ("",)
    rows = []
    for row in table.rows:
        rows.append(_row(table, row, again=row[0] == before[0]))
        before = row
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    caption = f'<p class="caption">{escape(table.caption)}</p>' if table.caption else ""
    place = f'tabindex="0" role="region" aria-label="{escape(table.title or label)}"'
    body = "\n".join(rows)
    return (
        f'{title}<div class="scroll" {place}><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>{caption}"
    )


def _row(table: Table, row: Sequence[str], again: bool) -> str:
    """again: the row above begins with the same word."""
    kind = "name again" if again else "name"
    cells = [f'<th scope="row" class="{kind}">{escape(row[0])}</th>']
    for index, (header, text) in enumerate(zip(table.headers, row, strict=True)):
        if index:
            # The header stands before the number where there is no room for a head.
            name = index < table.names
            label = "" if name and not text[:1].isdigit() else f' data-of="{escape(header)}"'
            cells.append(f"<td{_name(name)}{label}>{escape(text)}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _name(name: bool) -> str:
    return ' class="name"' if name else ""


def _surroundings(report: Report) -> str:
    """The run, its settings and the device, and what to beware of."""
    first, *more = surroundings(report)
    warnings = "".join(f"<li>{escape(caveat)}</li>" for caveat in caveats(report))
    parts = [f"<h2>{_RUN[1]}</h2>", _content(first)]
    parts += (f"<h3>{escape(block.title)}</h3>{_content(block)}" for block in more)
    parts.append(f'<h3>Beware</h3><ul class="notes">{warnings}</ul>')
    return f'<section id="{_RUN[0]}">\n' + "\n".join(parts) + "\n</section>"


def _content(block: Block) -> str:
    content = block.content
    return _table(content, block.title) if isinstance(content, Table) else _facts(content)


def _facts(facts: Facts) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    return f"<dl>{rows}</dl>"
