"""Check of the API reference: every public name has a docstring and stands on docs/api.md.

mkdocstrings leaves out what has no docstring without a word; here it is a warning, which ends a
strict build.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ifmmin.runtime", "ifmmin.train", "ifmmin.export")
_log = logging.getLogger("mkdocs.hooks.public_names")


def on_post_build(config: Any) -> None:
    """Warn of every name that a reader of the reference would miss."""
    page = (Path(config.site_dir) / "api.html").read_text(encoding="utf-8")
    for name in public_names(ROOT / ".src"):
        if f'id="{name}"' not in page:
            _log.warning("%s has no docstring, or does not stand on docs/api.md", name)


def public_names(sources: Path) -> Iterator[str]:
    """Names in the `__all__` of PACKAGES, by their homes, and those of their own public members."""
    loader = griffe.GriffeLoader(search_paths=[sources])
    packages = [loader.load(name) for name in PACKAGES]
    loader.resolve_aliases()
    for package in packages:
        for name in map(str, package.exports or ()):
            found = package[name]
            home = found.final_target if found.is_alias else found
            if home.is_module:  # a function that is called as its module
                home = home[name]
            yield home.path
            if home.is_class:
                yield from (m.path for m in home.members.values() if not m.name.startswith("_"))
