"""The documentation's own corpus, made here and taken the whole way by the commands as printed."""

from __future__ import annotations

import csv
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from run_command import call, mistake

from ifmmin.export.cli import main as export
from ifmmin.runtime.cli.run import main as run
from ifmmin.train.cli import main as train

DIMS = {"a": 40, "v": 35, "t": 64}
COMMANDS = {"ifmmin-train": train, "ifmmin-export": export, "ifmmin-run": run}
QUICKER = {
    "fit": ["fit", "--set", "stage1.decay_epochs=1", "--set", "stage2.decay_epochs=2"],
    "run/model.safetensors": [
        "run/model.safetensors", "--shape", "latency", "--pattern", "a_t", "--pattern", "a_v_t"
    ],
    "robust=robust:if-mmin,linear=robust:linear": ["linear=robust:linear"], "1-5": ["1"],
}  # fmt: skip


@pytest.fixture
def example(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands, in a folder with the corpus and the files that the page prints."""
    page = (root / "docs" / "corpora.md").read_text(encoding="utf-8")
    section = page[page.index("## layout: adapter") : page.index("## layout: pickled")]
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```", section, re.DOTALL | re.MULTILINE))
    (tmp_path / "my_corpus.py").write_text(blocks["python"])
    (tmp_path / "corpus.yaml").write_text(blocks["yaml"])
    _write_clips(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_corpus", raising=False)
    commands: list[str] = blocks["sh"].splitlines()
    return commands


def _write_clips(folder: Path) -> None:
    """Forty clips of ten speakers, whose every modality says the score; some lack one."""
    rng = np.random.default_rng(0)
    (folder / "clips").mkdir()
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "speaker", "score"])
        for number in range(40):
            score = round(float(rng.uniform(-3, 3)), 1)
            rows.writerow([f"clip{number}", f"speaker{number % 10}", score])
            frames = {m: rng.normal(score, 2, (6, dim)) for m, dim in DIMS.items()}
            if number % 7 == 4 or number == 39:
                del frames["v"]
            np.savez(folder / "clips" / f"clip{number}.npz", **frames)  # type: ignore[arg-type]


def test_the_example_goes_the_whole_way_as_printed(example: list[str], tmp_path: Path) -> None:
    printed = {}
    for line in example:
        name, *words = shlex.split(line)
        for word, instead in QUICKER.items():
            if word in words:
                place = words.index(word)
                words[place : place + 1] = instead
        ran = call(COMMANDS[name], *words)
        assert ran.code == 0, (line, ran.err)
        printed[words[0]] = ran.out
    assert list(printed) == ["inspect", "fit", "sweep", "run/model.safetensors", "clips"]
    assert "6 of 40" in printed["inspect"]
    assert "| Acc-2 -/0+ | Acc-2 -/+ |" in printed["fit"]
    answers = [line.split("|")[1:4] for line in printed["clips"].splitlines()[2:]]
    assert len(answers) == 40
    with (tmp_path / "clips.csv").open(encoding="utf-8") as file:
        scores = {row["id"]: float(row["score"]) for row in csv.DictReader(file)}
    right = [
        (scores[name.strip()] < 0) == (label.strip() == "negative") for name, _, label in answers
    ]
    assert np.mean(right) > 0.9
    assert {pattern.strip() for _, pattern, _ in answers} == {"a_t", "a_v_t"}


MISTAKES = {
    "undescribed": (
        'DIMS = {"a": 40, "v": 35, "t": 64}', 'DIMS = {"a": 40, "t": 64}',
        "modality v: the corpus does not say what it is; give its FeatureConfig",
    ),
    "width": ('"v": 35', '"v": 36', "modality v: got shape (6, 35), wanted (frames, 36)"),
    "score": ('float(row["score"])', '"good"', "got the score 'good', wanted a finite number"),
    "edges": (
        '("negative", "positive")', '("low", "mid", "high")',
        "got 1 edges and 3 labels, wanted 2 labels",
    ),
    "options": ("targets, root", "targets", "cannot be called with fold, features, targets, root"),
    "syntax": ("def load", "def load(", "cannot import my_corpus (SyntaxError"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.usefixtures("example")
def test_a_mistake_in_it_is_one_line(name: str, tmp_path: Path) -> None:
    old, new, message = MISTAKES[name]
    module = tmp_path / "my_corpus.py"
    text = module.read_text()
    assert old in text
    module.write_text(text.replace(old, new))
    words = ("--recipe", "robust", "--corpus", "corpus.yaml", "-o", "run")
    assert message in mistake(train, "fit", *words)
