"""The yardstick: the same graph in every version, which tells what a machine did between runs."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest
from sample_report import sample_report
from sample_rows import Machine

from ifmmin.benchmarks.record import OURS, TWIN, YARDSTICK
from ifmmin.benchmarks.report.summary import measure
from ifmmin.benchmarks.scenarios.ours import open_yardstick, yardstick_bytes
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern

pytest.importorskip("onnx", reason="the yardstick is built with the package onnx")

IEMOCAP = {Modality.A: 130, Modality.V: 342, Modality.T: 1024}


@pytest.mark.parametrize("pattern", ALL_PATTERNS, ids=str)
def test_it_runs_on_frames_of_any_length(pattern: Pattern) -> None:
    run, rng = open_yardstick(IEMOCAP, pattern, 1), np.random.default_rng(0)
    answers = []
    for frames in (1, 7, 50):
        features = {
            m: rng.standard_normal((frames, dim)).astype(np.float32)
            for m, dim in IEMOCAP.items()
        }  # fmt: skip
        answers.append(run(features))
    assert all(answer.shape == (1, 4) for answer in answers)
    assert np.isfinite(answers).all()
    assert np.ptp(answers, axis=0).max() > 1e-3


def test_it_is_of_the_size_of_our_graphs() -> None:
    """At IEMOCAP's dimensions a graph of ours has 4.2 MB for voice and 8.7 MB for everything."""
    sizes = [len(yardstick_bytes(IEMOCAP, Pattern.parse(name))) for name in ("a", "a_v_t")]
    assert 3e6 < sizes[0] < 5e6
    assert 7e6 < sizes[1] < 13e6


def test_it_never_changes() -> None:
    """Records of two versions are compared by it: changing it wants another name."""
    content = yardstick_bytes({m: 8 for m in IEMOCAP}, ALL_PATTERNS[-1])
    import onnx

    model = onnx.load_from_string(content)
    told = [(node.op_type, tuple(node.input)) for node in model.graph.node]
    sizes = [(tensor.name, tuple(tensor.dims)) for tensor in model.graph.initializer]
    found = hashlib.sha256(repr((told, sizes)).encode()).hexdigest()
    assert found == "93260d573e2a215d8674445c7fad7d6aa7feb65dc144c9504c9b11a42ff60c91"


def test_it_stands_in_no_table() -> None:
    report = sample_report(Machine(rounds=8), scenarios=["latency"])
    peers = [row for row in report.rows if row.contender == "monolith"]
    marks = [msgspec.structs.replace(row, contender=YARDSTICK) for row in peers]
    report = msgspec.structs.replace(report, rows=(*report.rows, *marks))
    found = {item.row.contender for item in measure(report, "latency")}
    assert found >= {OURS, TWIN, "monolith"}
    assert YARDSTICK not in found
