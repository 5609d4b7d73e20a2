"""What `ifmmin-run` shows and saves, and what counts as missing."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_command import arrays, line, npz, run, run_bundle


@pytest.fixture(scope="module")
def bundle(make_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_bundle(make_network, tmp_path_factory)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return npz(tmp_path / "clip.npz", **arrays("a"))


def _csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_top_k_ranks_the_best(bundle: Path, clip: Path) -> None:
    (answer,) = run(bundle, clip, "--format", "json", "--top-k", 2).answers
    shares = answer["probabilities"]
    best = sorted(shares, key=shares.__getitem__, reverse=True)[:2]
    assert answer["top"] == [{"label": b, "probability": shares[b]} for b in best]
    assert answer["label"] == best[0]
    (row,) = _csv(run(bundle, clip, "--format", "csv", "--top-k", 2).out)
    assert (row["top1"], row["top2"]) == tuple(best)
    assert float(row["probability1"]) == shares[best[0]]
    table = run(bundle, clip, "--top-k", 2).out
    assert f"| {best[0]} {shares[best[0]]:.3f} | {best[1]} {shares[best[1]]:.3f} |" in table
    for wrong, wanted in ((0, "at least 1"), (5, "has 4 classes")):
        ran = run(bundle, clip, "--top-k", wrong)
        assert ran.code == 2
        assert wanted in ran.err


def test_below_the_threshold_no_class_is_named(bundle: Path, clip: Path) -> None:
    (answer,) = run(bundle, clip, "--format", "json").answers
    sure = max(answer["probabilities"].values())
    (same,) = run(bundle, clip, "--format", "json", "--threshold", sure - 1e-6).answers
    assert same["label"] == answer["label"]
    above = ("--threshold", sure + 1e-6)
    (unsure,) = run(bundle, clip, "--format", "json", *above).answers
    assert unsure["label"] is None
    assert unsure["probabilities"] == answer["probabilities"]
    assert _csv(run(bundle, clip, "--format", "csv", *above).out)[0]["label"] == "-"
    assert re.search(r"\| clip  \| +a \| +- \|", run(bundle, clip, *above).out)
    assert "wanted a probability" in run(bundle, clip, "--threshold", 1.5).err


def test_latency_goes_to_standard_error(bundle: Path) -> None:
    sent = [line("a", seed) for seed in range(20)]
    ran = run(bundle, "-", "--format", "json", "--latency", stdin=sent)
    seconds = [answer["seconds"] for answer in ran.answers]
    found = re.fullmatch(
        r"latency of 20 answers: p50 (\S+) ms, p90 (\S+) ms, p99 (\S+) ms\n", ran.err
    )
    assert found
    wanted = np.percentile(seconds, (50, 90, 99)) * 1e3
    np.testing.assert_allclose([float(x) for x in found.groups()], wanted, atol=6e-4)


def test_quality_and_patterns_say_what_is_absent(bundle: Path) -> None:
    sent = [line("av", quality={"v": 0.2, "a": None}), line("av", quality={"v": 0.9}), line("av")]
    options = ("--format", "json", "--min-quality", "v=0.5", "--min-quality", "a=0.1")
    ran = run(bundle, "-", *options, stdin=sent)
    assert [a["pattern"] for a in ran.answers] == ["a", "a_v", "a_v"]
    assert ran.answers[0]["absent"] == {"v": "quality 0.2 is below 0.5", "t": "not given"}
    (only,) = run(bundle, "-", "--format", "json", "--pattern", "v", stdin=[sent[1]]).answers
    assert only["absent"] == {"a": "left out by pattern v", "t": "not given"}
    (row,) = _csv(run(bundle, "-", "--format", "csv", "--pattern", "v", stdin=[sent[1]]).out)
    assert row["absent"] == "a: left out by pattern v; t: not given"
    for wrong in ("v", "v=", "v=much", "x=1", "v=nan"):
        ran = run(bundle, "-", "--min-quality", wrong)
        assert (ran.code, ran.err.count("\n")) == (2, 1)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".md"])
def test_save_writes_what_would_be_shown(bundle: Path, tmp_path: Path, suffix: str) -> None:
    layout = {".csv": "csv", ".jsonl": "json", ".md": "table"}[suffix]
    out = tmp_path / "new" / f"answers{suffix}"
    sent = [line("a", id="émile, [b]\n"), "broken", line("v")]
    shown = run(bundle, "-", "--format", layout, stdin=sent)
    ran = run(bundle, "-", "--save", out, stdin=sent)
    assert ran.code == shown.code == 1
    assert ran.out.startswith("backend: onnxruntime-cpu")

    def timeless(text: str) -> str:
        # A time of one more digit makes its column wider.
        return re.sub(r" +", " ", re.sub(r"\d+\.\d+(e-\d+)?|-+:", "N", text))

    assert timeless(out.read_text(encoding="utf-8")) == timeless(shown.out)
    if suffix == ".jsonl":
        assert json.loads(out.read_text().splitlines()[0])["input"] == "émile, [b]\n"


def test_nothing_is_saved_when_nothing_is_answered(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    out.write_text("before")
    assert run(bundle, "-", "--save", out, stdin=["broken"]).code == 2
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]
    for place in (tmp_path, out / "below.csv"):
        ran = run(bundle, "-", "--save", place, stdin=[line("a")])
        assert (ran.code, ran.out) == (2, "")
        assert "cannot write" in ran.err


def test_options_may_stand_between_inputs(bundle: Path, clip: Path) -> None:
    ran = run("--format", "json", bundle, clip, "--top-k", 1, clip)
    assert [a["input"] for a in ran.answers] == ["clip", "clip"]
    ran = run(bundle)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "got no input" in ran.err
