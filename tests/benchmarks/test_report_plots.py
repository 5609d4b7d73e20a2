"""Plots of a report: what they show, and SVG that a page can take in."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.resources import files
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from sample_report import sample_report
from sample_rows import Machine

from ifmmin.benchmarks.record import OURS, TWIN, Accuracy, Report, Row
from ifmmin.benchmarks.report import render_html
from ifmmin.benchmarks.report.plots import Drawing, draw_plots


def _row(contender: str, *samples: float, **more: Any) -> Row:
    fields: dict[str, Any] = {"scenario": "latency", "pattern": "a", "precision": "fp32"}
    return Row(contender=contender, samples=samples, **(fields | more))


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
        _row("eager", 0.050), _row("monolith", 0.002, threads=2), _row("monolith", 0.003),
        _row(OURS, *[0.001] * 99, 0.0015, bound=0.0005), _row(TWIN, 0.001),
        _row(OURS, 0.004, pattern="v"),
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
    (without,) = _draw("latency", _row(OURS, 0.001))
    assert "upright mark" not in without.caption


def test_a_start_consists_of_its_parts_and_memory_stands_by_stage() -> None:
    common: dict[str, Any] = {"scenario": "cold-start"}
    parts = [
        _row(OURS, seconds, part=part, **common) for part, seconds in (("load", 3), ("ask", 1))
    ]
    (drawing,) = _draw("cold-start", _row(OURS, 8.0, **common), *parts, _row("eager", 9, **common))
    (axes,) = drawing.plots.values()
    assert _widths(axes) == [6.0, 2.0, 9.0]
    (key,) = axes.figure.legends
    assert [text.get_text() for text in key.get_texts()] == ["load", "ask"]
    common = {"scenario": "memory", "unit": "bytes"}
    rows = [
        _row(OURS, 7e6, part="one pattern, RSS", **common),
        _row(OURS, 5e6, part="one pattern, USS", **common),
        _row("eager", 4e6, part="one pattern, RSS", **(common | {"pattern": "v"})),
        _row(OURS, 9e6, part="streams, RSS", streams=64, **common),
    ]  # fmt: skip
    (drawing,) = _draw("memory", *rows)
    assert list(drawing.plots) == ["Memory: one pattern", "Memory: 64 streams"]
    assert [t.get_text() for axes in drawing.plots.values() for t in axes.texts] == [
        "4.00 MB",
        "7.00 MB",
        "9.00 MB",
    ]


def test_lines_show_the_fastest_way_at_every_length_and_our_bound() -> None:
    common: dict[str, Any] = {"scenario": "length"}
    rows = [
        _row(name, by * frames, lengths={"a": frames, "v": 5}, threads=threads, **more, **common)
        for frames in (10, 100)
        for name, by, threads, more in (
            (OURS, 2.0, 1, {"bound": frames / 2}), (OURS, 3.0, 2, {}), ("monolith", 4.0, 1, {}),
        )
    ]  # fmt: skip
    rows.append(_row("eager", 1.0, lengths={"a": 10, "v": 5}, **common))
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
        _row(OURS, seconds, precision=precision, accuracy=Accuracy(wa=0.5, ua=ua, ece=0.1, count=9))
        for precision, seconds, ua in (("fp32", 3.0, 0.8), ("int8", 1.0, 0.7))
    ]
    axes = _draw("latency", *rows)[1].plots["Latency of one utterance: unweighted accuracy"]
    assert _points(axes) == [[[1.0, 0.7]], [[3.0, 0.8]], [[1.0, 0.7], [3.0, 0.8]]]
    assert [text.get_text() for text in axes.texts] == ["a"]
    assert "70 %" in _names(axes)
    assert len(_draw("latency", rows[0])) == 1


def _colours(names: list[str]) -> dict[str, Any]:
    (drawing,) = _draw("latency", *(_row(name, 1.0 + i / 99) for i, name in enumerate(names)))
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
import sys, {module}, ifmmin.benchmarks.cli
assert "matplotlib" not in sys.modules
import {module}.plots
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)


def test_without_matplotlib_the_page_says_so(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "ifmmin.benchmarks.report.plots")
    page = render_html(report)
    assert "pip install 'ifmmin[bench]'" in page
    assert "<svg" not in page
    assert "<td" in page
