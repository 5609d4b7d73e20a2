"""A headless Chromium, driven by Playwright, that looks at pages without any network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip


@contextmanager
def browser() -> Iterator[Any]:
    """A browser; skips the test, saying why, where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
    )
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no Chromium is installed here: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=program, args=_FLAGS)
        try:
            yield made
        finally:
            made.close()


class View:
    """One page on one screen, with what went wrong while it was loaded."""

    def __init__(self, made: Any, page: Path, width: int, height: int, **context: Any) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._context = made.new_context(
            viewport={"width": width, "height": height}, offline=True, **context
        )
        self.page = self._context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(page.resolve().as_uri())

    def ask(self, script: str) -> Any:
        """The value of a function of JavaScript, run from outside of the page."""
        return self.page.evaluate(script)

    def close(self) -> None:
        """Forget the page."""
        self._context.close()
