"""The demo on a small corpus: every column is there and none of the timing is asserted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifmmin.benchmarks.demo import main, require_agreement
from ifmmin.benchmarks.timing import time_together
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import ParityError
from ifmmin.runtime.modality import ALL_PATTERNS

SMALL = (
    "corpus.modalities={a: {dim: 5, frames: [2, 6]}, v: {dim: 6, frames: [2, 6]}, "
    "t: {dim: 7, frames: [3, 9], missing_length: 5}}",
    "corpus.train=64",
    "corpus.test=40",
    "network={embedding: 8, text_channels: 4, blocks: 2, block_sizes: [8, 4]}",
    "stage1.epochs=1",
    "stage2.epochs=1",
)


def test_demo_prints_a_row_per_pattern(tmp_path: Path, capsys: Any) -> None:
    settings = [word for field in SMALL for word in ("--set", field)]
    assert main(["--out", str(tmp_path / "demo"), "--repeats", "3", *settings]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == [str(p) for p in ALL_PATTERNS]
    assert all(line.count("|") == 11 for line in lines)
    assert Bundle(tmp_path / "demo" / "bundle").patterns == ALL_PATTERNS


def test_calls_take_turns_in_shuffled_order() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "xyz"}
    timings = time_together(calls, repeats=50)
    rounds = np.reshape(order[-150:], (50, 3))
    assert all(sorted(turn) == ["x", "y", "z"] for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 3
    assert {len(t.samples) for t in timings.values()} == {50}


def test_a_wrong_peer_is_not_timed() -> None:
    with pytest.raises(ParityError, match="nothing was timed"):
        require_agreement(ALL_PATTERNS[0], np.zeros(4), np.full(4, 0.1))
