"""Browser: what the folder of `ifmmin-bundle web` costs in headless Chromium.

`python -m ifmmin.benchmarks.browser SITE RECORDING.wav` prints the bytes of the folder, the time
from opening the page to the first answer with an empty and with a warm cache, and the share of one
core that listening takes, of all processes of the browser, with and without painting, which here no
GPU does.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from playwright.sync_api import expect, sync_playwright

from ifmmin.runtime.console import write

_SECONDS = 20.0
"""Of listening, and of the same page at rest."""
_WAIT = 60_000


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serve(site: Path) -> Iterator[str]:
    """The address at which a folder is served while the block runs."""
    handler = partial(_Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def main(site: Path, recording: Path) -> None:
    """Measure and print."""
    total = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    write(f"folder                      {total / 1e6:6.1f} MB")
    flags = [
        "--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={recording}",
    ]  # fmt: skip
    program = next(filter(None, map(which, ("chromium", "google-chrome"))), None)
    with TemporaryDirectory() as profile, serve(site) as url, sync_playwright() as driver:
        launch = partial(
            driver.chromium.launch_persistent_context, profile, executable_path=program, args=flags
        )
        for name in ("empty", "warm"):
            browser = launch()
            page = browser.new_page()
            started = time.perf_counter()
            page.goto(url)
            expect(page.locator("#status")).to_contain_text("Ready", timeout=_WAIT)
            ready = time.perf_counter()
            page.set_input_files("#recording", recording)
            expect(page.locator("#latency")).to_contain_text("ms", timeout=_WAIT)
            answered = time.perf_counter()
            write(f"ready, {name} cache          {ready - started:6.2f} s")
            write(f"first answer, {name} cache   {answered - started:6.2f} s")
            page.wait_for_timeout(5000)  # the service worker keeps the files
            if name == "warm":
                page.click("#listen")
                expect(page.locator("#heard")).to_contain_text("2.", timeout=_WAIT)
                # A browser compiles WebAssembly again, better, in the first half minute.
                page.wait_for_timeout(40_000)
                seen = _share(page, _SECONDS)
                page.evaluate("() => { document.body.style.display = 'none'; }")
                unseen = _share(page, _SECONDS)
                page.evaluate("() => { document.body.style.display = ''; }")
                page.click("#listen")
                page.wait_for_timeout(1000)
                rest = _share(page, _SECONDS)
                for what, share in (
                    ("listening and painting      ", seen),
                    ("listening, nothing painted  ", unseen),
                    ("the same page at rest       ", rest),
                ):
                    write(f"{what} {share:6.1%} of a core")
            browser.close()


def _share(page: Any, seconds: float) -> float:
    """Seconds of processor per second, of all children of this process."""

    def spent() -> dict[int, float]:
        found = {}
        for child in psutil.Process().children(recursive=True):
            times = child.cpu_times()
            found[child.pid] = times.user + times.system
        return found

    before, started = spent(), time.perf_counter()
    page.wait_for_timeout(1000 * seconds)
    after = spent()
    passed = time.perf_counter() - started
    return sum(after[pid] - before.get(pid, 0.0) for pid in after) / passed


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).resolve())
