"""Plots: what is drawn, and that the same numbers give the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifmmin.runtime.modality import ALL_PATTERNS, MODALITIES
from ifmmin.train.cli import main
from ifmmin.train.plots import confusion, losses, projection, save
from ifmmin.train.projection import Point, principal_components, project, read_projection

LABELS = ("angry", "happy", "neutral", "sad")
HISTORY = [
    {"stage": 1, "epoch": 1, "rate": 0.1, "cross_entropy": 2.0, "cmd": 9.0, "validation": 0.3},
    {"stage": 1, "epoch": 2, "rate": 0.1, "cross_entropy": 1.5, "cmd": 4.0, "validation": 0.4,
     "active_a": 1.0},
    {"stage": 2, "epoch": 1, "rate": 0.1, "cross_entropy": 1.0, "imagination": 3.0,
     "validation": 0.5},
]  # fmt: skip


def _shown(figure: Any) -> list[tuple[str, list[float]]]:
    return [
        (axis.get_title(), axis.lines[0].get_ydata().tolist())
        for axis in figure.axes
        if axis.get_visible()
    ]


def test_every_loss_has_an_axis_of_its_own_per_stage() -> None:
    higher = [row | {"cross_entropy": row["cross_entropy"] + 1.0} for row in HISTORY]
    assert _shown(losses([HISTORY, higher], "both")) == [
        ("cross-entropy", [2.5, 2.0]),
        ("CMD", [9.0, 4.0]),
        ("validation figure", [0.3, 0.4]),
        ("cross-entropy", [1.5]),
        ("imagination", [3.0]),
        ("validation figure", [0.5]),
    ]


def test_confusion_has_a_panel_per_pattern_in_percent_of_the_true_class() -> None:
    counts = np.array([[3, 1, 0, 0], [0, 8, 0, 0], [0, 0, 0, 0], [2, 2, 2, 2]])
    figure = confusion({str(p): counts for p in ALL_PATTERNS}, LABELS, "all")
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert titles[:7] == [str(p) for p in ALL_PATTERNS]
    shares = [int(text.get_text()) for text in figure.axes[0].texts]
    assert shares == [75, 25, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 25, 25, 25, 25]


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    points = [Point(f"u{i}", "avt"[i % 3], LABELS[i % 4], i * 0.1, -i * 0.2) for i in range(24)]
    for name in ("one.png", "two.png"):
        save(projection(points, LABELS, "some"), tmp_path / name)
    content = (tmp_path / "one.png").read_bytes()
    assert content == (tmp_path / "two.png").read_bytes()
    assert b"Software" not in content
    save(projection(points[1:], LABELS, "some"), tmp_path / "other.png")
    assert content != (tmp_path / "other.png").read_bytes()


def test_principal_components_are_those_of_the_covariance() -> None:
    x = np.random.default_rng(0).standard_normal((40, 5)) * [3.0, 1.0, 2.0, 0.1, 0.5] + 4.0
    found = principal_components(x)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    for column, vector in ((0, vectors[:, -1]), (1, vectors[:, -2])):
        vector = vector * np.sign(vector[np.abs(vector).argmax()])
        np.testing.assert_allclose(found[:, column], (x - x.mean(axis=0)) @ vector, atol=1e-9)
    np.testing.assert_allclose(found.var(axis=0, ddof=1), values[[-1, -2]])
    np.testing.assert_allclose(principal_components(x[:, :1])[:, 1], 0.0)


@pytest.mark.parametrize("model", ["if-mmin", "mmin"])
def test_only_present_modalities_of_networks_with_s_are_projected(
    make_network: Any, make_utterance: Any, model: str
) -> None:
    from ifmmin.train.evaluate import embed

    frames = [{"a": 4, "v": 3, "t": 6}, {"a": 5}, {"v": 2, "t": 7}]
    some = [make_utterance(np.random.default_rng(i), f, i) for i, f in enumerate(frames)]
    network = make_network(model)
    points = project(network, embed(network, some), some, LABELS)
    wanted = [(m.value, LABELS[i]) for i, f in enumerate(frames) for m in MODALITIES if m in f]
    assert [(p.modality, p.label) for p in points] == (wanted if model == "if-mmin" else [])


@pytest.mark.parametrize("model", ["if-mmin", "linear"])
def test_a_run_holds_its_plots(tiny: list[str], tmp_path: Path, model: str) -> None:
    out = tmp_path / "run"
    options = tiny
    if model == "linear":  # takes nothing of networks and stages
        options = [*tiny[:2], *tiny[2:10]]
    assert main(["fit", *options, "--model", model, "--out", str(out)]) == 0
    plots = {path.name for path in (out / "plots").iterdir()}
    points = read_projection(out / "projection.csv")
    if model == "linear":
        assert plots == {"confusion.png"}
        assert points == []
    else:
        assert plots == {"confusion.png", "losses.png", "projection.png"}
        assert len(points) == 3 * 40
        assert np.isfinite([(p.x, p.y) for p in points]).all()


def test_nothing_is_imported_before_something_is_drawn() -> None:
    modules = "sys, ifmmin.train, ifmmin.train.sweeps.run"
    script = f"import {modules}; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
