"""The gate: what is refused, what is said, and that nothing of it is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ifmmin.export import shapes
from ifmmin.export.cli import main
from ifmmin.export.compare import TOLERANCE, Comparison, compare
from ifmmin.export.limits import (
    DEFAULTS,
    Evaluation,
    allowed,
    judge,
    parse_losses,
    require,
)
from ifmmin.export.shapes import Plan
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import InputError, ParityError
from ifmmin.runtime.modality import Pattern

FINE = Comparison(1e-5, 1e-6, 0.1, 1e-5, 1e-6, 1e-6, 1.0, 100, 4, 1.0, "T_a=7")


def test_a_comparison_has_the_figures() -> None:
    truth = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    found = truth + np.array([[0.0, 0.02, 0.0], [0.0, 0.0, 0.0]])
    figures = compare(found, truth, ["short", "long"])
    assert figures.max_difference == pytest.approx(0.02)
    assert figures.mean_difference == pytest.approx(0.02 / 6)
    assert figures.excess == pytest.approx(0.02 / TOLERANCE)
    moved = np.exp(found[0]) / np.exp(found[0]).sum()
    assert figures.probability_max == pytest.approx(np.abs(moved - [0.5, 0.25, 0.25]).max())
    logs = np.abs(np.log(moved) - truth[0])
    assert figures.log_probability_max == pytest.approx(logs.max())
    assert figures.log_probability_mean == pytest.approx(logs.sum() / 6)
    assert (figures.agreement, figures.classes, figures.probes) == (1.0, 2, 2)
    assert figures.worst == "short"


@given(st.integers(0, 9), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_what_is_no_number_is_as_wrong_as_can_be(row: int, value: float) -> None:
    truth = np.random.default_rng(0).standard_normal((10, 3))
    found = truth.copy()
    found[row, 1] = value
    figures = compare(found, truth, [str(i) for i in range(10)])
    assert figures.probability_max == 1.0
    assert figures.log_probability_max == np.inf
    assert figures.excess == np.inf
    assert figures.agreement == 0.9
    for precision in DEFAULTS:
        assert judge("g", figures, None, DEFAULTS[precision])


def test_large_logits_may_differ_by_their_own_rounding() -> None:
    truth = np.array([[400.0, 0.0], [1.0, 0.0]])
    large, small = truth.copy(), truth.copy()
    large[0, 0] += 1e-3
    small[1, 0] += 1e-3
    assert compare(large, truth, ["a", "b"]).excess < 1
    assert compare(small, truth, ["a", "b"]).excess > 1


@pytest.mark.parametrize(
    ("precision", "change", "figure"),
    [
        ("fp32", {"excess": 1.01, "max_difference": 1.01e-4}, "logits"),
        ("fp16", {"probability_max": 1.1e-3}, "probabilities"),
        ("int8", {"probability_max": 2.1e-2}, "probabilities"),
        ("int8-qdq", {"probability_max": 2.1e-2}, "probabilities"),
        ("int8", {"agreement": 0.98}, "agreement"),
    ],
)
def test_default_limits(precision: str, change: dict[str, float], figure: str) -> None:
    assert not judge("g", FINE, None, DEFAULTS[precision])
    worse = dataclasses.replace(FINE, **change)  # type: ignore[arg-type]
    (violation,) = judge("g", worse, None, DEFAULTS[precision])
    assert violation.figure == figure
    with pytest.raises(ParityError, match=f"nothing was written.*--allow-loss {figure}=") as error:
        require([violation])
    assert figure in error.value.table
    # The number that is proposed is enough, and a smaller loss than the default changes nothing.
    proposed = str(error.value).rsplit(f"{figure}=", 1)[1]
    accepted = allowed(precision, parse_losses([f"{figure}={proposed}"]))
    assert not judge("g", worse, None, accepted)
    tighter = allowed(precision, {figure: 1.0 if figure == "agreement" else 1e-9})
    assert tighter == DEFAULTS[precision]


def test_accuracy_on_a_corpus_is_judged() -> None:
    figures = Evaluation("c", 1, 56, 0.7, 0.70, 0.1, 0.7, 0.706, 0.1, 1.0)
    (violation,) = judge("g", FINE, figures, DEFAULTS["int8"])
    assert (violation.figure, violation.allowed) == ("ua", 0.005)
    assert violation.got == pytest.approx(0.006)
    assert not judge("g", FINE, figures, allowed("int8", {"ua": 0.01}))
    better = dataclasses.replace(figures, ua=0.71)
    assert not judge("g", FINE, better, DEFAULTS["int8"])


@pytest.mark.parametrize("text", ["0.05", "ua", "ua=", "speed=0.1", "ua=-1", "ua=nan", "ua=inf"])
def test_losses_need_a_figure_and_a_number(text: str) -> None:
    with pytest.raises(InputError, match="wanted FIGURE=NUMBER"):
        parse_losses([text])


@pytest.fixture
def nudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter whose latency graphs are wrong by a little."""

    def plan(network: Any, pattern: Pattern, precision: Any, recurrence: str) -> Plan:
        made = shapes.plan_latency(network, pattern, precision, recurrence)
        with torch.no_grad():
            made.module.get_parameter("head.rest.classifier.linears.1.weight").mul_(1.01)
        return made

    monkeypatch.setattr("ifmmin.export.variants.plan_latency", plan)


@pytest.mark.usefixtures("nudged")
def test_a_graph_that_differs_is_never_written(
    checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "bundle"
    words = [str(checkpoint), "--pattern", "a", "--shape", "latency", "--out", str(out)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "| latency a fp32 |" in said
    assert "1 graph loses more than is allowed; nothing was written" in said
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert main([*words, "--allow-loss", "logits=1e-3"]) == 2
    assert main([*words, "--allow-loss", "logits=5", "--allow-loss", "agreement=0.5"]) == 0
    assert Bundle(out).entry(Pattern.parse("a")).parity["max_difference"] > 1e-3


def test_the_nudge_is_what_was_caught(checkpoint: Path, tmp_path: Path) -> None:
    words = ["--pattern", "a", "--shape", "latency", "--out", str(tmp_path / "bundle")]
    assert main([str(checkpoint), *words]) == 0
