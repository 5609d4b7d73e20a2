"""The page: what a person does with it, in headless Chromium with a recording for a microphone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import SCREENS, Watch, launched, shows
from served import Served, served


@pytest.fixture(scope="module")
def chromium(root: Path) -> Iterator[Any]:
    with launched(root / "examples" / "recordings" / "angry.wav") as made:
        yield made


Open = Callable[..., Any]


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Open]:
    """Opens the page of a server; nothing may be asked of another, and nothing may fail."""
    watched = []

    def opened(server: Served, *, failures: str = "$^", **screen: str) -> Any:
        watch = Watch(chromium, f"http://127.0.0.1:{server.http}/", failures)
        watched.append(watch)
        page = watch.open(**screen)
        page.wait_for_selector("#bars li")
        return page

    yield opened
    for watch in watched:
        watch.close()


def test_listening_words_and_switches(speech: Served, open_page: Open) -> None:
    page = open_page(speech)
    shows(page, "#status", "Ready")
    assert page.is_hidden("#face")
    page.click("#listen")
    shows(page, "#label", "angry")
    page.evaluate(
        "() => { window.said = []; const send = WebSocket.prototype.send;"
        " WebSocket.prototype.send = function (message) {"
        " if (typeof message === 'string') said.push(message); send.call(this, message); }; }"
    )
    shows(page, "#pattern", "^voice$")
    shows(page, "#latency", r"\d\.\d ms")
    shows(page, "#confidence", r"Confidence \d+ %")
    page.fill("#text", "I am so happy to see you")
    shows(page, "#pattern", "voice, words")
    # Said again before the window has left it behind.
    page.wait_for_function("() => said.filter((one) => /so happy/.test(one)).length === 2")
    page.click("#switch-a")
    shows(page, "#pattern", "^words$")
    shows(page, "#why-a", "switched off")
    shows(page, "#label", "happy")
    page.click("#switch-a")
    shows(page, "#pattern", "voice, words")
    page.fill("#text", "")
    shows(page, "#pattern", "^voice$")
    drawn = "() => document.querySelector('canvas').getContext('2d').getImageData(950, 170, 1, 1)"
    assert page.evaluate(drawn + ".data[3]") > 0
    page.click("#listen")
    shows(page, "#status", "Nothing was stored")
    assert page.evaluate("() => localStorage.length + sessionStorage.length") == 0
    assert page.context.cookies() == []


@pytest.mark.parametrize("name", ["sad", "neutral"])
def test_a_recording(speech: Served, open_page: Open, root: Path, name: str) -> None:
    page = open_page(speech, screen="phone")
    page.set_input_files("#recording", root / "examples" / "recordings" / f"{name}.wav")
    shows(page, "#label", name)
    shows(page, "#status", f"{name}.wav: .* seconds were sent")
    page.set_input_files("#recording", Path(__file__))
    shows(page, "#status", "test_page.py is no sound that this browser can read")


def test_keys_alone(speech: Served, open_page: Open) -> None:
    page = open_page(speech)
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id"))
    assert [one for one in reached if one] == [
        "listen",
        "recording",
        "text",
        "switch-a",
        "switch-t",
    ]
    page.focus("#text")
    page.keyboard.type("what a nice surprise")
    shows(page, "#label", "happy")
    page.focus("#switch-t")
    page.keyboard.press("Space")
    shows(page, "#why-t", "switched off")
    assert page.get_attribute("#switch-t", "aria-checked") == "false"


def test_a_face(faces: Served, open_page: Open, openface_csv: Path) -> None:
    page = open_page(faces)
    assert page.is_hidden("#sound")
    assert page.is_hidden("#words")
    page.set_input_files("#openface", openface_csv)
    shows(page, "#pattern", "^face$")
    shows(page, "#why-v", "used")
    page.click("#switch-v")
    shows(page, "#pattern", "none")
    page.click("#switch-v")
    shows(page, "#pattern", "^face$")
    page.click("#forget-face")
    shows(page, "#pattern", "none")


def test_no_microphone(speech: Served, open_page: Open) -> None:
    page = open_page(speech)
    for name, said in (("NotAllowedError", "was refused"), ("NotFoundError", "No microphone")):
        page.evaluate(
            "name => { navigator.mediaDevices.getUserMedia = async () => {"
            " throw new DOMException('no', name); }; }", name,
        )  # fmt: skip
        page.click("#listen")
        shows(page, "#status", said)


_SLOW_MICROPHONE = """() => {
  const own = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  window.tracks = [];
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    await new Promise((go) => setTimeout(go, 300));
    const source = await own(wanted);
    window.tracks.push(...source.getTracks());
    return source;
  };
}"""
_LIVE = "() => window.tracks.filter((track) => track.readyState === 'live').length"


def test_one_thing_is_heard_at_a_time(speech: Served, open_page: Open, root: Path) -> None:
    page = open_page(speech)
    page.evaluate(_SLOW_MICROPHONE)
    page.click("#listen")
    page.click("#listen")  # impatient
    shows(page, "#label", "angry")
    page.wait_for_function("() => window.tracks.length === 2")
    assert page.evaluate(_LIVE) == 1
    page.set_input_files("#recording", root / "examples" / "recordings" / "sad.wav")
    shows(page, "#label", "sad")
    shows(page, "#listen", "^Listen$")
    assert page.evaluate(_LIVE) == 0
    page.click("#listen")
    shows(page, "#listen", "^Stop$")
    page.evaluate("() => window.tracks.at(-1).dispatchEvent(new Event('ended'))")
    shows(page, "#status", "microphone went away")
    shows(page, "#listen", "^Listen$")


def test_what_a_bundle_does_not_take(speech: Served, faces: Served, open_page: Open) -> None:
    for server, name, said in ((speech, "Face.CSV", "CSV of OpenFace"), (faces, "a.wav", "sound")):
        page = open_page(server)
        shows(page, "#status", "^Ready")
        given = page.evaluate_handle(
            "name => { const given = new DataTransfer();"
            " given.items.add(new File(['x'], name)); return given; }", name,
        )  # fmt: skip
        page.dispatch_event("body", "drop", {"dataTransfer": given})
        shows(page, "#status", f"{name}: this bundle takes no {said}")
        colours = page.eval_on_selector_all(
            "#bars .bar", "bars => bars.map((bar) => bar.style.background)"
        )
        assert len(set(colours)) == len(colours)


def test_a_server_that_starts_again(face_bundle: Path, open_page: Open, openface_csv: Path) -> None:
    with served("-b", face_bundle, rpc=False) as server:
        page = open_page(server, failures="ERR_CONNECTION_REFUSED")
        page.set_input_files("#openface", openface_csv)
        shows(page, "#pattern", "^face$")
        page.click("#switch-t")
        page.focus("#forget-face")
    shows(page, "#status", "connection is lost.*trying again")
    with served("-b", face_bundle, "--port", server.http, rpc=False):
        shows(page, "#status", "Connected again")
        shows(page, "#pattern", "^face$")
        shows(page, "#why-t", "switched off")
        assert page.evaluate("() => document.activeElement.id") == "forget-face"
        page.click("#forget-face")
        shows(page, "#pattern", "none")
        page.close()


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(
    speech: Served, open_page: Open, root: Path, screen: str, scheme: str
) -> None:
    axe = root / ".venv" / "axe" / "axe.min.js"
    if not axe.is_file():
        pytest.skip("axe-core is not in .venv/axe: npm pack axe-core, as the Makefile does")
    page = open_page(speech, screen=screen, scheme=scheme)
    page.click("#listen")
    shows(page, "#label", "angry")
    page.fill("#text", "How dare you say that")
    shows(page, "#pattern", "voice, words")
    page.evaluate(axe.read_text())
    found = page.evaluate("() => axe.run()")
    assert [(one["id"], [n["html"] for n in one["nodes"]]) for one in found["violations"]] == []
    assert len(found["passes"]) > 20
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_it_is_small_and_whole(speech: Served, root: Path) -> None:
    folder = root / "runtime" / "server" / "page"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 200_000
    for path in ("/", "/page.js", "/engines.js", "/page.css", "/icon.svg"):
        status, content, headers = speech.ask("GET", path)
        assert status == 200
        for word in (b'"http", "ws"', b"https, or at", b"http://www.w3.org/2000/svg"):
            content = content.replace(word, b"")
        assert b"http" not in content
        assert "default-src 'self'" in headers["content-security-policy"]
