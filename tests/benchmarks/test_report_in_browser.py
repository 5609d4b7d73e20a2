"""The page as Chromium shows it: legible on a phone, a desk and paper, by day and by night."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from browser import View, browser
from sample_report import sample_report
from sample_rows import Machine

from ifmmin.benchmarks.record import Report
from ifmmin.benchmarks.report import render_html

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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as made:
        yield made


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
        ("phone", "light"),
        ("phone", "dark"),
        ("desk", "dark"),
        ("paper", "light"),
        ("paper", "dark"),
    ],
)
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


def test_the_page_is_whole_without_javascript(chromium: Any, page: Path, tmp_path: Path) -> None:
    shots = []
    for script in (True, False):
        view = View(chromium, page, *DESK, java_script_enabled=script)
        shots.append(view.page.screenshot())
        view.close()
    assert shots[0] == shots[1]


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
