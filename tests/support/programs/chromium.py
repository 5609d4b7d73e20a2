"""Headless Chromium with a recording for a microphone, and what pages show in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SCREENS = {"desk": (1280, 820), "phone": (390, 844)}


@contextmanager
def launched(sound: Path) -> Iterator[Any]:
    """A browser whose microphone hears a recording, again and again."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no Chromium is installed here: apt-get install chromium")
    flags = [
        "--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={sound}",
    ]  # fmt: skip
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=program, args=flags)
        yield made
        made.close()


def shows(page: Any, selector: str, pattern: str, seconds: float = 15) -> None:
    """Wait until a text is there."""
    playwright.expect(page.locator(selector)).to_have_text(
        re.compile(pattern, re.IGNORECASE), timeout=1000 * seconds
    )


class Watch:
    """What pages of one origin ask of others, and what fails in them."""

    def __init__(self, chromium: Any, origin: str, failures: str = "$^") -> None:
        """failures: what the browser may complain of."""
        self._chromium, self._origin, self._failures = chromium, origin, failures
        self.wrong: list[str] = []
        self.asked: list[str] = []
        """Addresses of all requests."""
        self._contexts: list[Any] = []

    def open(self, screen: str = "desk", scheme: str = "light", name: str = "") -> Any:
        """A new page, with a context of its own. name: of a file, for the page of the origin."""
        width, height = SCREENS[screen]
        context = self._chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        self._contexts.append(context)
        page = context.new_page()
        context.on("request", self._note)  # also those of workers
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", self._hear)
        page.goto(self._origin + name)
        return page

    def close(self) -> None:
        """Close the pages; nothing may have gone wrong."""
        for context in self._contexts:
            context.close()
        if self.wrong:
            pytest.fail(f"pages of {self._origin}: {self.wrong}")

    def _note(self, request: Any) -> None:
        self.asked.append(request.url)
        if not request.url.startswith(self._origin):
            self.wrong.append(request.url)

    def _hear(self, message: Any) -> None:
        if message.type == "error" and not re.search(self._failures, message.text):
            self.wrong.append(message.text)
