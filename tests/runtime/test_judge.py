"""How far answers may be from the network's, by precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ifmmin.runtime.judge import judge
from ifmmin.runtime.manifest import GraphEntry

TRUTH = np.array([[1.0, -1.0, 0.5], [40.0, 0.0, -3.0]], np.float32)


def _entry(precision: str, shape: str = "latency", **parity: Any) -> GraphEntry:
    return GraphEntry(
        shape=shape, subject="a", precision=precision, recurrence="lstm", file="a.onnx", sha256="",
        bytes=0, opset=18, inputs=(), outputs=(), parity=parity,
    )  # fmt: skip


def _passes(entry: GraphEntry, row: int, off: float) -> bool:
    found = TRUTH.copy()
    found[row, 2] += off
    return judge(entry, "answers", found, TRUTH).passed


@pytest.mark.parametrize(
    ("entry", "row", "most"),
    [
        (_entry("fp32"), 0, 1e-4),
        (_entry("fp32"), 1, 40 * 5e-6),
        (_entry("fp32", max_difference=3e-4), 0, 6e-4),
        (_entry("fp32", "head", max_difference=3e-4), 0, 1.2e-3),
        (_entry("fp32", max_difference=None), 0, 1e-4),
        (_entry("fp16"), 1, 0.4),
        (_entry("fp16", max_difference=0.5), 1, 1.0),
    ],
)
def test_logits_may_be_off_by_so_much(entry: GraphEntry, row: int, most: float) -> None:
    assert _passes(entry, row, 0.9 * most)
    assert not _passes(entry, row, 1.2 * most)


@pytest.mark.parametrize("precision", ["int8", "int8-qdq"])
def test_in_8_bits_probabilities_count(precision: str) -> None:
    assert _passes(_entry(precision), 1, 20.0)  # of no weight beside 40
    assert not _passes(_entry(precision), 0, 0.2)
    assert _passes(_entry(precision, probability_max=0.04), 0, 0.2)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_wrong(precision: str, value: float) -> None:
    found = TRUTH.copy()
    found[0] = value
    verdict = judge(_entry(precision, max_difference=9.0), "answers", found, TRUTH)
    assert not verdict.passed
    assert verdict.difference == np.inf


def test_another_shape_is_wrong() -> None:
    verdict = judge(_entry("fp32"), "answers", TRUTH[:1], TRUTH)
    assert not verdict.passed
    assert "(1, 3)" in verdict.detail
    assert "(2, 3)" in verdict.detail


def test_the_verdict_names_the_input_nearest_to_its_limit() -> None:
    found = TRUTH + np.array([[9e-5], [1e-4]], np.float32)
    verdict = judge(_entry("fp32"), "answers", found, TRUTH)
    assert verdict.passed
    assert "golden input 0" in verdict.detail
    assert verdict.unit == "logit"
