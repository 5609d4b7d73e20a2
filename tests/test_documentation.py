"""README and docs/: links lead somewhere, options of commands exist, the first Python runs."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from run_command import call, run_python

from ifmmin.runtime.cli.commands import COMMANDS
from ifmmin.runtime.cli.run import main as run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

MODULES = {spec.name: spec.module for spec in COMMANDS}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def pages(root: Path) -> Iterator[Path]:
    """What people read."""
    yield from sorted(root.glob("*.md"))
    yield from sorted((root / "docs").glob("*.md"))
    yield root / "examples" / "README.md"


def command_lines(text: str) -> list[list[str]]:
    """Command lines of ours in the blocks of a page, continued lines joined."""
    blocks = [block for language, block in FENCE.findall(text) if language in ("", "sh", "bash")]
    lines = [s.removeprefix("$ ") for s in "\n".join(blocks).replace("\\\n", " ").splitlines()]
    found = [shlex.split(line, comments=True) for line in lines if line.startswith("ifmmin-")]
    return [words for words in found if words[0] in MODULES]


def known_options(words: list[str]) -> set[str]:
    """Options of the command, or of its action, that a line begins with."""
    command: Any = typer.main.get_command(import_module(MODULES[words[0]]).app)
    if hasattr(command, "commands"):
        command = command.commands.get(words[1], command)
    names = {name for parameter in command.params for name in parameter.opts}
    return {*names, "-h", "--help"}


def test_the_readme_is_short(root: Path) -> None:
    lines = (root / "README.md").read_text().splitlines()
    assert len(lines) <= 90
    assert max(map(len, lines)) <= 140


def test_every_command_line_has_options_that_exist(root: Path) -> None:
    seen = set()
    for page in pages(root):
        for words in command_lines(page.read_text()):
            seen.add(words[0])
            given = {word.partition("=")[0] for word in words[1:] if re.match("--?[a-z]", word)}
            assert given <= known_options(words), f"{page.name}: {' '.join(words)}"
    assert seen == set(MODULES)


def test_links_outside_of_the_site_lead_somewhere(root: Path) -> None:
    """Those between pages of docs/ are held by make docs."""
    for page in (*root.glob("*.md"), root / "examples" / "README.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def cells(text: str) -> list[list[str]]:
    """Rows of a table, without the line below its head."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if set("".join(row)) - set("-: ")]


def test_the_first_screen_tells_the_truth(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first command and its Python give the answers that it shows; its licence is there."""
    monkeypatch.chdir(root)
    text = (root / "README.md").read_text()
    blocks = FENCE.findall(text)
    (words,) = command_lines(text[: text.index(blocks[1][1])])
    head, *told = cells(blocks[0][1])
    head_here, *here = cells(call(run, *words[1:]).out)
    assert (words[0], head) == ("ifmmin-run", head_here)
    assert [row[:3] for row in told] == [row[:3] for row in here]
    for mine, theirs in zip(told, here, strict=True):  # the last is time
        pairs = zip(mine[3:-1], theirs[3:-1], strict=True)
        assert all(abs(float(a) - float(b)) < 0.02 for a, b in pairs)
    (script,) = [block for language, block in blocks if language == "python"]
    ran = run_python(script)
    assert (ran.code, ran.err) == (0, "")
    assert re.fullmatch(r"happy \[.*\] a_t\n", ran.out)
    first = text[: text.index("```python")]
    assert "**for non-commercial use**" in first
    assert "(docs/responsible-use.md)" in first


def test_the_citation_is_of_this_version(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"].partition(" AND ")[0]  # of the code
