"""The report's plots, and the page in a headless Chromium: no error, no request, nothing small."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib
import msgspec
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from run_command import run_python
from sample_rows import Machine, a_row, sample_report

from ifmmin.benchmarks.record import CONTROL, OURS, Accuracy, Report, Row
from ifmmin.benchmarks.report import render_html
from ifmmin.benchmarks.report.plots import Drawing, draw_plots


def _draw(section: str, *rows: Row) -> list[Drawing]:
    return draw_plots(sample_report(Machine(rounds=4), rows=rows, noise={}), section)


def _names(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def _widths(axes: Axes) -> list[float]:
    return [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)]


def _points(axes: Axes) -> list[Any]:
    """Of every line but the thin ones that tie names to ends."""
    lines = [line for line in axes.get_lines() if line.get_transform() == axes.transData]
    return [np.asarray(line.get_xydata()).tolist() for line in lines]


def test_bars_show_medians_tails_and_the_bound_the_fastest_first() -> None:
    rows = (
        a_row("eager", 0.050), a_row("monolith", 0.002, threads=2), a_row("monolith", 0.003),
        a_row(OURS, *[0.001] * 99, 0.0015, bound=0.0005), a_row(CONTROL, 0.001),
        a_row(OURS, 0.004, pattern="v"),
    )  # fmt: skip
    (drawing,) = _draw("latency", *rows)
    assert "upright mark" in drawing.caption
    assert list(drawing.plots) == [f"Latency of one utterance: {pattern}" for pattern in ("a", "v")]
    axes, other = drawing.plots.values()
    assert axes.get_xlim() == other.get_xlim()
    assert _names(axes) == [OURS, "monolith", "eager"]
    assert [text.get_text() for text in axes.texts] == ["1.00 ms", "2.00 ms", "50.0 ms"]
    end = axes.get_xlim()[1]
    assert _widths(axes) == [0.001, 0.002, end]
    tail, slash = _points(axes)
    assert [x for x, _ in tail] == pytest.approx([0.001, 0.0010049], rel=1e-3)
    assert min(x for x, _ in slash) > 0.002
    ((bound, *_),) = (np.asarray(c.get_paths()[0].vertices).tolist() for c in axes.collections)
    assert bound[0] == 0.0005
    assert not other.collections
    (without,) = _draw("latency", a_row(OURS, 0.001))
    assert "upright mark" not in without.caption


def test_a_start_consists_of_its_parts_and_memory_stands_by_stage() -> None:
    common: dict[str, Any] = {"scenario": "cold-start"}
    parts = [
        a_row(OURS, seconds, part=part, **common) for part, seconds in (("load", 3), ("ask", 1))
    ]
    (drawing,) = _draw(
        "cold-start", a_row(OURS, 8.0, **common), *parts, a_row("eager", 9, **common)
    )
    (axes,) = drawing.plots.values()
    assert _widths(axes) == [6.0, 2.0, 9.0]
    (key,) = axes.figure.legends
    assert [text.get_text() for text in key.get_texts()] == ["load", "ask"]
    common = {"scenario": "memory", "unit": "bytes"}
    rows = [
        a_row(OURS, 7e6, part="one pattern, RSS", **common),
        a_row(OURS, 5e6, part="one pattern, USS", **common),
        a_row("eager", 4e6, part="one pattern, RSS", **(common | {"pattern": "v"})),
        a_row(OURS, 9e6, part="streams, RSS", streams=64, **common),
    ]  # fmt: skip
    (drawing,) = _draw("memory", *rows)
    assert list(drawing.plots) == ["Memory: one pattern", "Memory: 64 streams"]
    assert [t.get_text() for axes in drawing.plots.values() for t in axes.texts] == [
        "4.00 MB", "7.00 MB", "9.00 MB",
    ]  # fmt: skip


def test_lines_show_the_fastest_way_at_every_length_and_our_bound() -> None:
    common: dict[str, Any] = {"scenario": "length"}
    rows = [
        a_row(name, by * frames, lengths={"a": frames, "v": 5}, threads=threads, **more, **common)
        for frames in (10, 100)
        for name, by, threads, more in (
            (OURS, 2.0, 1, {"bound": frames / 2}), (OURS, 3.0, 2, {}), ("monolith", 4.0, 1, {}),
        )
    ]  # fmt: skip
    rows.append(a_row("eager", 1.0, lengths={"a": 10, "v": 5}, **common))
    (drawing,) = _draw("length", *rows)
    assert drawing.caption == (
        "Median of one call. Dashed: the bound, the best that this device could do."
    )
    ((title, axes),) = drawing.plots.items()
    assert title == "Latency against length: a, s"
    assert axes.get_xlabel() == "acoustic frames"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["100", "10"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    assert [text.get_text() for text in axes.texts] == [OURS, "monolith", "bound"]
    assert _points(axes) == [[[10, 20], [100, 200]], [[10, 40], [100, 400]], [[10, 5], [100, 50]]]
    assert _draw("length", rows[-1]) == []


def test_accuracy_stands_over_latency() -> None:
    rows = [
        a_row(
            OURS, seconds, precision=precision, accuracy=Accuracy(wa=0.5, ua=ua, ece=0.1, count=9)
        )
        for precision, seconds, ua in (("fp32", 3.0, 0.8), ("int8", 1.0, 0.7))
    ]
    axes = _draw("latency", *rows)[1].plots["Latency of one utterance: unweighted accuracy"]
    assert _points(axes) == [[[1.0, 0.7]], [[3.0, 0.8]], [[1.0, 0.7], [3.0, 0.8]]]
    assert [text.get_text() for text in axes.texts] == ["a"]
    assert "70 %" in _names(axes)
    assert len(_draw("latency", rows[0])) == 1


def _colours(names: list[str]) -> dict[str, Any]:
    (drawing,) = _draw("latency", *(a_row(name, 1.0 + i / 99) for i, name in enumerate(names)))
    (axes,) = drawing.plots.values()
    inks = [bar.get_facecolor() for bar in axes.patches]
    return dict(zip(_names(axes), inks, strict=True))


def test_colours_hold_over_a_report() -> None:
    names = [OURS, "monolith", "eager", "openvino", "whole again", "other"]
    found = _colours(names)
    assert len(set(found.values())) == len(names)
    assert _colours(names[::-1]) == found
    assert len(set(_colours(list(map(str, range(30)))).values())) == 8


@pytest.fixture(scope="module")
def report() -> Report:
    return sample_report(Machine(rounds=60))


def test_svg_is_for_this_page(report: Report) -> None:
    drawing = draw_plots(report, "latency")[0]
    html = drawing.html()
    assert html == draw_plots(report, "latency")[0].html()
    plots = re.findall(r"<svg .*?</svg>", html)
    assert len(plots) == 7
    assert all(re.match(r'<svg [^>]*role="img"><title>\w', plot) for plot in plots)
    assert ">ifmmin int8</text>" in plots[0]
    style = files("ifmmin.benchmarks.report").joinpath("style.css").read_text("utf-8")
    used = set(re.findall(r"var\((--\w+)\)", html))
    assert {"--ink", "--muted", "--c0", "--c1"} <= used
    assert all(f"{name}: #" in style for name in used)
    assert not re.search(r"#[0-9a-f]{6}\b|http|<style|<metadata|clip", html)
    ids = re.findall(
        r' id="([^"]*)"', "".join(d.html() for d in draw_plots(report, "stream")) + html
    )
    assert len(ids) == len(set(ids)) > 7


def test_drawing_leaves_matplotlib_as_it_was(report: Report) -> None:
    before = dict(matplotlib.rcParams)
    draw_plots(report, "throughput")[0].html()
    assert dict(matplotlib.rcParams) == before
    module = "ifmmin.benchmarks.report"
    script = f"""
import {module}, ifmmin.benchmarks.cli
assert "matplotlib" not in sys.modules
import {module}.plots
assert "matplotlib.pyplot" not in sys.modules
"""
    assert run_python(script).code == 0


def test_without_matplotlib_a_page_says_so(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "ifmmin.benchmarks.report.plots")
    page = render_html(report)
    assert "pip install 'ifmmin[bench]'" in page
    assert "<svg" not in page
    assert "<td" in page


PHONE, DESK, PAPER = (360, 800), (1280, 900), (718, 1046)
"""Paper: A4 less the margins of the style sheet, at 96 pixels an inch."""

OVERLAPS = """() => {
  // Text is set in lines: the box of a wrapped cell would take its neighbours' room for its own.
  const boxes = [];
  const seen = element => element.checkVisibility({visibilityProperty: true});
  for (const element of document.querySelectorAll('svg text, th, td, dt, dd, h1, h2, h3, p, li')) {
    if (!seen(element) || element.closest('thead') && getComputedStyle(
        element.closest('thead')).position === 'absolute') continue;
    const range = document.createRange();
    range.selectNodeContents(element);
    for (const box of range.getClientRects())
      if (box.width > 0) boxes.push([box.left, box.top, box.right, box.bottom,
                                     element.textContent.slice(0, 40)]);
  }
  boxes.sort((a, b) => a[1] - b[1]);
  const found = [];
  for (let i = 0; i < boxes.length; i++)
    for (let j = i + 1; j < boxes.length && boxes[j][1] < boxes[i][3] - 2; j++) {
      const [a, b] = [boxes[i], boxes[j]];
      const wide = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
      const high = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
      if (wide > 1 && high > 4 && a[4] !== b[4]) found.push([a[4], b[4], wide, high]);
    }
  return {found, count: boxes.length};
}"""
SIZES = """() => [...document.querySelectorAll('body *')]
  .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
  .filter(e => e.checkVisibility() && e.tagName !== 'TITLE')
  .map(e => {
    const svg = e.closest('svg');
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    return [parseFloat(getComputedStyle(e).fontSize) * scale, e.textContent.slice(0, 40)];
  })"""
OUTSIDE = """() => [...document.querySelectorAll('svg')].filter(s => s.checkVisibility()).flatMap(
  svg => [...svg.querySelectorAll(':not(defs) > path, text, use')].filter(e => {
    const [a, b] = [e.getBoundingClientRect(), svg.getBoundingClientRect()];
    return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 2
      || a.bottom > b.bottom + 2;
  }).map(e => e.textContent || e.outerHTML))"""
CONTRASTS = """() => {
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(channel);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const contrast = text => {
    const other = light(text);
    return (Math.max(paper, other) + 0.05) / (Math.min(paper, other) + 0.05);
  };
  const words = [...document.querySelectorAll('p, li, td, th, dt, dd, h1, h2, a')]
    .map(e => contrast(getComputedStyle(e).color));
  const drawn = [...document.querySelectorAll('svg text')]
    .map(e => contrast(getComputedStyle(e).fill));
  const marks = [...document.querySelectorAll('svg [style*="fill: var(--c"]')]
    .map(e => getComputedStyle(e)).filter(s => s.fillOpacity === '1').map(s => contrast(s.fill));
  return {text: Math.min(...words, ...drawn), marks: Math.min(...marks), paper};
}"""
HIDDEN = """() => [...document.querySelectorAll('figure, svg')].filter(e => {
  const box = e.getBoundingClientRect();
  const seen = e.checkVisibility({visibilityProperty: true, opacityProperty: true});
  return !seen || box.width < 100 || box.height < 30 || box.left < 0 || box.right > innerWidth;
}).map(e => e.textContent)"""
QUESTIONS = {
    "figures": "() => document.querySelectorAll('figure').length", "hidden": HIDDEN,
    "outside": OUTSIDE, "overlaps": OVERLAPS, "sizes": SIZES, "contrasts": CONTRASTS,
    "scrolls": "() => document.documentElement.scrollWidth > innerWidth",
}  # fmt: skip


_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
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


@pytest.fixture(scope="module", params=["usual", "crowded"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = sample_report(Machine(rounds=120))
    if request.param == "crowded":
        report = _crowded(report)
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_html(report), "utf-8")
    return path


def _crowded(report: Report) -> Report:
    """Many peers with long names, all about as fast as the monolith."""
    names = ("onnxruntime-cuda", "onnxruntime-tensorrt", "torchscript", "tensorrt")
    more = [
        msgspec.structs.replace(row, contender=name, samples=tuple(s * by for s in row.samples))
        for row in report.rows
        for by, name in enumerate(names, 1001)
        if row.contender == "monolith"
    ]
    scaled = [
        msgspec.structs.replace(row, samples=tuple(s / 1000 for s in row.samples)) for row in more
    ]
    return msgspec.structs.replace(report, rows=(*report.rows, *scaled))


@pytest.mark.parametrize(
    ("screen", "scheme"),
    [
        ("phone", "light"), ("phone", "dark"), ("desk", "dark"), ("paper", "light"),
        ("paper", "dark"),
    ],
)  # fmt: skip
def test_the_page_is_legible(chromium: Any, page: Path, screen: str, scheme: str) -> None:
    size = {"phone": PHONE, "desk": DESK, "paper": PAPER}[screen]
    view = View(chromium, page, *size, device_scale_factor=2, color_scheme=scheme)
    if screen == "paper":
        view.page.emulate_media(media="print")
    asked = {name: view.ask(script) for name, script in QUESTIONS.items()}
    view.close()
    assert (view.requests, view.errors) == ([page.resolve().as_uri()], [])
    assert asked["figures"] == 8
    assert asked["hidden"] == []
    assert asked["outside"] == []
    assert asked["overlaps"]["found"] == []
    assert asked["overlaps"]["count"] > 1000
    assert min(asked["sizes"]) >= [11.0, ""]
    assert not asked["scrolls"]
    assert asked["contrasts"]["text"] >= 4.5
    assert asked["contrasts"]["marks"] >= 3.0
    assert (asked["contrasts"]["paper"] > 0.5) is (scheme == "light" or screen == "paper")


def test_the_checks_see_what_is_wrong(chromium: Any, tmp_path: Path) -> None:
    """The control: a page with every fault that is looked for."""
    (tmp_path / "wrong.html").write_text(
        '<body style="color:#999;background:#aaa"><img src="https://example.invalid/x.png">'
        '<script>console.error("oh")</script><p style="font-size:9px">small</p>'
        '<div style="width:900px">wide</div><svg width="40" height="20" viewBox="0 0 40 20">'
        '<text x="5" y="12">one word</text><text x="12" y="13">another</text></svg>'
        '<svg width="900" height="9" style="visibility:hidden"></svg>'
    )
    view = View(chromium, tmp_path / "wrong.html", *PHONE)
    assert len(view.requests) == 2
    assert view.errors
    assert view.ask(OVERLAPS)["found"]
    assert view.ask(OUTSIDE)
    assert len(view.ask(HIDDEN)) == 2
    assert min(view.ask(SIZES))[0] == 9.0
    assert view.ask(QUESTIONS["scrolls"])
    assert view.ask(CONTRASTS)["text"] < 4.5
    view.close()


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
