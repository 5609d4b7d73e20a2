"""Pictures of the page, by a server and by the browser itself: `make screenshots`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import expect, sync_playwright

from ifmmin.benchmarks.browser import serve
from ifmmin.export.web.site import write_site
from ifmmin.runtime.bundle import Bundle, shipped

ROOT = Path(__file__).resolve().parents[1]
SCREENS: dict[str, tuple[int, int, Literal["light", "dark"]]] = {
    "desk": (1120, 700, "light"), "phone": (390, 844, "dark"),
}  # fmt: skip


def main(url: str, what: str) -> None:
    """Listen to a recording as if it were spoken, type words, and look."""
    sound = ROOT / "examples" / "recordings" / "angry.wav"
    flags = [
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={sound}", "--no-sandbox",
    ]  # fmt: skip
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        for name, (width, height, scheme) in SCREENS.items():
            # A browser each: the recording begins with it.
            browser = driver.chromium.launch(executable_path=program, args=flags)
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page.goto(url)
            page.click("#listen")
            expect(page.locator("#label")).to_have_text("angry", timeout=20_000)
            page.wait_for_timeout(10_000)
            page.fill("#text", "How dare you say that")
            expect(page.locator("#pattern")).to_have_text("voice, words")
            page.wait_for_timeout(8_000)
            page.mouse.move(0, 0)
            page.evaluate("() => document.activeElement.blur()")
            page.screenshot(path=ROOT / "docs" / "images" / f"{what}-{name}.png")
            browser.close()


command = [sys.executable, "-m", "ifmmin.runtime.server.cli", "--port", "0", "--grpc-port", "-1"]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
    assert server.stderr is not None
    told = next(json.loads(line) for line in server.stderr if '"serving"' in line)
    try:
        main(f"http://127.0.0.1:{told['http']}/", "page")
    finally:
        server.terminate()

with tempfile.TemporaryDirectory() as folder:
    site = Path(folder) / "site"
    write_site(Bundle(shipped()), site, words=True)
    with serve(site) as url:
        main(url, "web")
