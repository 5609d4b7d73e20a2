"""`ifmmin-train evaluate`, and the file of predictions that it saves."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern
from ifmmin.train.cli import main
from ifmmin.train.corpus import Utterance
from ifmmin.train.evaluate import Scores, write_predictions


@pytest.fixture(scope="module")
def fitted(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run."""
    out = tmp_path_factory.mktemp("fitted") / "run"
    assert main(["fit", *tiny, "--out", str(out)]) == 0
    return out


def _read(path: Path) -> list[dict[str, Any]]:
    """Answers of either format, with `probabilities` by class."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    header, *rows = csv.reader(text.splitlines(keepends=True))
    assert header[:4] == ["utterance", "pattern", "true", "predicted"]
    return [
        {**dict(zip(header[:4], row, strict=False)),
         "probabilities": dict(zip(header[4:], map(float, row[4:]), strict=True))}
        for row in rows
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_figures_computed_from_the_file_are_those_of_the_command(
    fitted: Path, tmp_path: Path, capsys: Any, suffix: str
) -> None:
    out = tmp_path / "new" / f"answers{suffix}"
    assert main(["evaluate", str(fitted / "model.safetensors"), "--save", str(out)]) == 0
    rows = re.findall(r"^\| (\w+) +\| +(0\.\d+) \| +(0\.\d+) \|", capsys.readouterr().out, re.M)
    shown = {pattern: (wa, ua) for pattern, wa, ua in rows}
    metrics = json.loads((fitted / "metrics.json").read_text())["test"]
    answers = _read(out)
    assert len(answers) == 40 * len(ALL_PATTERNS)
    assert answers == _read(fitted / "predictions.csv")
    for pattern in map(str, ALL_PATTERNS):
        some = [answer for answer in answers if answer["pattern"] == pattern]
        true = np.array([answer["true"] for answer in some])
        right = true == np.array([answer["predicted"] for answer in some])
        wa, ua = right.mean(), np.mean([right[true == label].mean() for label in np.unique(true)])
        assert (wa, ua) == pytest.approx((metrics[pattern]["wa"], metrics[pattern]["ua"]))
        assert (f"{wa:.3f}", f"{ua:.3f}") == shown[pattern]
        probabilities = np.array([list(answer["probabilities"].values()) for answer in some])
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
        # The calibrated ones: how sure the network is on average stands in metrics.json.
        sure = probabilities.max(axis=1).mean()
        assert sure == pytest.approx(metrics[pattern]["confidence"], abs=1e-6)
        best = [max(answer["probabilities"], key=answer["probabilities"].get) for answer in some]
        assert best == [answer["predicted"] for answer in some]


def test_the_part_that_was_asked_for_is_saved(fitted: Path, tmp_path: Path) -> None:
    names = []
    for part in ("test", "validation"):
        out = tmp_path / f"{part}.csv"
        checkpoint = str(fitted / "model.safetensors")
        assert main(["evaluate", checkpoint, "--part", part, "--save", str(out)]) == 0
        names.append({answer["utterance"] for answer in _read(out)})
    assert not names[0] & names[1]


@pytest.mark.parametrize("name", ["answers", "answers.txt", "taken.csv", "file/answers.csv"])
def test_a_place_that_will_not_do_is_named_before_the_work(
    tmp_path: Path, capsys: Any, name: str
) -> None:
    (tmp_path / "taken.csv").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    # There is no such checkpoint: who reads it first says so.
    assert main(["evaluate", "none.safetensors", "--save", str(tmp_path / name)]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert str(tmp_path / name) in text
    assert "wanted .csv or .jsonl" in text or "cannot write" in text
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_names_come_back_and_an_utterance_without_the_pattern_has_no_row(
    tmp_path: Path, suffix: str
) -> None:
    frames: dict[Modality, np.ndarray] = {Modality.A: np.ones((2, 5))}
    names = ["=1+1", "@clip", '-émile, "b"\nc']
    utterances = [Utterance(name, frames, index % 2) for index, name in enumerate(names)]
    logits = np.log(np.array([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]]))
    scores = {
        Pattern.parse("a"): Scores(np.arange(3), logits, logits),
        Pattern.parse("v"): Scores(np.array([1]), logits[1:2], logits[1:2]),
    }
    path = tmp_path / f"answers{suffix}"
    write_predictions(path, scores, utterances, ("no", "yes"))
    answers = _read(path)
    assert [(a["utterance"], a["pattern"]) for a in answers] == [
        *((name, "a") for name in names), ("@clip", "v")
    ]  # fmt: skip
    assert [a["true"] for a in answers] == ["no", "yes", "no", "yes"]
    assert [a["predicted"] for a in answers[:1] + answers[2:3]] == ["yes", "no"]
    assert answers[0]["probabilities"] == pytest.approx({"no": 0.25, "yes": 0.75})
