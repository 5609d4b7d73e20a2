"""The page over the second engine: what a person does with it, with and without a network."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import SCREENS, Watch, launched, playwright, shows
from small_bundles import flip

from ifmmin.benchmarks.browser import serve
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.frontends.sound import read_sound
from ifmmin.runtime.modality import Modality


@pytest.fixture(scope="module")
def chromium(root: Path) -> Iterator[Any]:
    with launched(root / "examples" / "recordings" / "angry.wav") as made:
        yield made


@pytest.fixture
def watch(chromium: Any) -> Iterator[Callable[..., Watch]]:
    """Watches pages of an address; nothing may be asked of another, and nothing may fail."""
    made = []

    def watching(url: str, failures: str = "$^") -> Watch:
        made.append(Watch(chromium, url, failures))
        return made[-1]

    yield watching
    for one in made:
        one.close()


def _listens(page: Any) -> None:
    page.click("#listen")
    shows(page, "#label", "angry")
    shows(page, "#pattern", "^voice$")
    page.fill("#text", "I am so happy to see you")
    shows(page, "#pattern", "voice, words")
    page.click("#switch-a")
    shows(page, "#pattern", "^words$")
    shows(page, "#why-a", "switched off")
    shows(page, "#label", "happy")
    page.click("#switch-a")
    page.fill("#text", "")
    shows(page, "#pattern", "^voice$")
    page.click("#listen")
    shows(page, "#status", "Nothing was stored")


def test_with_a_network_and_then_without(speech_site: Path, watch: Callable[..., Watch]) -> None:
    with serve(speech_site) as url:
        watched = watch(url, failures="ERR_INTERNET_DISCONNECTED|ERR_CONNECTION_REFUSED")
        page = watched.open()
        shows(page, "#status", "Ready: press Listen, open a recording, or type words")
        shows(page, "#words-label", r"Words .the first take 12 MB.")
        _listens(page)
        assert page.is_visible("text=stay in this browser")
        assert not page.is_visible("text=go to the machine")
        # Once the service worker has all files, it serves them.
        page.evaluate("async () => { await navigator.serviceWorker.ready; }")
    assert {part.rpartition("/")[2] for part in watched.asked} >= {"ge2e.onnx", "minilm.onnx"}
    page.context.set_offline(True)
    page.reload()
    shows(page, "#status", "Ready")
    _listens(page)
    assert page.evaluate("() => localStorage.length + sessionStorage.length") == 0


@pytest.mark.parametrize("name", ["sad", "neutral"])
def test_a_recording(speech_site: Path, watch: Callable[..., Watch], root: Path, name: str) -> None:
    with serve(speech_site) as url:
        page = watch(url).open("phone")
        shows(page, "#status", "Ready")
        page.set_input_files("#recording", root / "examples" / "recordings" / f"{name}.wav")
        shows(page, "#label", name)
        shows(page, "#status", f"{name}.wav: .* seconds were heard")
        page.set_input_files("#recording", Path(__file__))
        shows(page, "#status", "test_page.py is no sound that this browser can read")


def test_features_of_files(
    small: Path, small_site: Path, watch: Callable[..., Watch], tmp_path: Path
) -> None:
    dims = {m.value: spec.dim for m, spec in Bundle(small).manifest.modalities.items()}
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", rng.standard_normal((9, dims["a"])).astype(np.float32))
    np.save(tmp_path / "v.npy", rng.standard_normal((4, dims["v"])))
    np.savetxt(tmp_path / "t.csv", rng.standard_normal((6, dims["t"])), delimiter=",")
    np.save(tmp_path / "wrong.npy", np.zeros((3, 99), np.float32))
    (tmp_path / "text.csv").write_text("not,numbers\n")
    with serve(small_site) as url:
        page = watch(url).open()
        shows(page, "#status", "Ready: open a file of features")
        page.set_input_files("#features-a", tmp_path / "a.npy")
        shows(page, "#pattern", "^voice$")
        page.set_input_files("#features-v", tmp_path / "v.npy")
        shows(page, "#pattern", "^voice, face$")
        page.set_input_files("#features-t", tmp_path / "t.csv")
        shows(page, "#pattern", "^voice, face, words$")
        shows(page, "#why-a", "used, 9 frames")
        for name in ("wrong.npy", "text.csv"):
            page.set_input_files("#features-v", tmp_path / name)
            shows(page, "#status", f"{name} holds no features of face .wanted {dims['v']} numbers")
        page.click("text=Forget features of face")
        shows(page, "#pattern", "^voice, words$")
        assert set(dims) == {m.value for m in Modality}


def test_the_lines_for_a_page_of_ones_own(
    speech_site: Path, watch: Callable[..., Watch], root: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    shutil.copytree(speech_site, site)
    (lines,) = re.findall(r"```js\n(.*?)```", (root / "docs" / "web.md").read_text(), re.S)
    samples = read_sound(root / "examples" / "recordings" / "angry.wav").samples.repeat(3)
    (site / "own.js").write_text(f"const samples = new Float32Array({samples.tolist()});\n{lines}")
    (site / "own.html").write_text(
        '<!doctype html><link rel="icon" href="icon.svg">'
        '<script type="module" src="own.js"></script>'
    )
    with serve(site) as url:
        page = watch(url).open(name="own.html")
        playwright.expect(page).to_have_title(re.compile(r"^angry, \w+$"), timeout=20_000)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bundle/a.step.fp32.onnx", "a.step.fp32.onnx is damaged"),
        ("bundle/ge2e.onnx", "ge2e.onnx is damaged"),
        ("onnxruntime/ort-wasm-simd-threaded.wasm", "wasm is damaged"),
        ("sound.js", "(damaged|cannot be started)"),
        ("page.js", "^Connecting"),
    ],
)
def test_a_flipped_bit(
    speech_site: Path, watch: Callable[..., Watch], tmp_path: Path, name: str, told: str
) -> None:
    site = tmp_path / "site"
    shutil.copytree(speech_site, site)
    flip(site / name)
    with serve(site) as url:
        page = watch(url, failures="integrity|SyntaxError|Uncaught").open()
        shows(page, "#status", told)
        page.wait_for_timeout(300)
        assert page.locator("#bars li").count() == 0


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(
    speech_site: Path, watch: Callable[..., Watch], root: Path, screen: str, scheme: str
) -> None:
    axe = root / ".venv" / "axe" / "axe.min.js"
    if not axe.is_file():
        pytest.skip("axe-core is not in .venv/axe: npm pack axe-core, as the Makefile does")
    with serve(speech_site) as url:
        page = watch(url).open(screen, scheme)
        page.click("#listen")
        shows(page, "#label", "angry")
        page.evaluate(axe.read_text())
        found = page.evaluate("() => axe.run()")
        assert [(one["id"], [n["html"] for n in one["nodes"]]) for one in found["violations"]] == []
        assert len(found["passes"]) > 20
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
