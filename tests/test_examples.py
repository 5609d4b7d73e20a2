"""Examples: a session and a table that scripts make, and recordings of EMO-DB."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_command import call, run
from small_bundles import ALL

from ifmmin.runtime.cli.events import read_event
from ifmmin.runtime.cli.run import main
from ifmmin.train.data.synthetic import SyntheticLayout
from ifmmin.train.recipe import load_recipe

SMALL = (
    "corpus.modalities={a: {dim: 5, frames: [12, 30]}, v: {dim: 7, frames: [12, 30]}, "
    "t: {dim: 11, frames: [5, 9], missing_length: 5}}"
)


def load_example(root: Path, name: str) -> Any:
    path = root / "examples" / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_session(root: Path) -> Any:
    return load_example(root, "make_session.py")


def test_it_makes_what_is_committed(make_session: Any, root: Path, tmp_path: Path) -> None:
    made = tmp_path / "session.jsonl"
    assert make_session.main(["--out", str(made)]) == 0
    committed = root / "examples" / "session.jsonl"
    assert made.read_bytes() == committed.read_bytes()
    assert committed.stat().st_size < 300_000


def test_the_session_has_the_features_of_the_pipeline(root: Path) -> None:
    layout = load_recipe("synthetic", ()).corpus
    assert isinstance(layout, SyntheticLayout)
    dims = {m.value: options.dim for m, options in layout.modalities.items()}
    kinds, seen, times = set(), set(), []
    for line in (root / "examples" / "session.jsonl").read_bytes().splitlines():
        event = read_event(line)
        kinds.add(event.kind)
        assert event.at is not None
        times.append(event.at)
        content = json.loads(line)
        given = {m: content[m] for m in "avt" if m in content}
        if "tokens" in content:
            given["t"] = content["tokens"]
        for letter, frames in given.items():
            assert {len(frame) for frame in frames} == {dims[letter]}
            seen.add(letter)
    assert kinds == {"push", "set_text", "clear", "drop", "restore", "reset", "tick"}
    assert seen == set("avt")
    assert times == sorted(times)


def test_a_session_for_another_bundle(make_session: Any, make_bundle: Any, tmp_path: Path) -> None:
    bundle = make_bundle(ALL, shapes=("latency", "stream"))
    out = tmp_path / "session.jsonl"
    told = ["--bundle", str(bundle), "--out", str(out)]
    assert make_session.main(["--set", SMALL, *told]) == 0
    ran = run(bundle, "--stream", out)
    assert (ran.code, ran.err) == (0, "")
    patterns = [answer["pattern"] for answer in ran.answers]
    assert {"a_v", "a", "a_v_t", "a_t", None} == set(patterns)
    out.unlink()


def test_unfit_sessions(make_session: Any, make_bundle: Any, tmp_path: Path, capsys: Any) -> None:
    bundle = make_bundle(ALL, shapes=("latency", "stream"))
    out = tmp_path / "session.jsonl"
    for arguments, wanted in (
        (["--bundle", str(bundle)], "the corpus has 130 features"),
        (["--recipe", "iemocap"], "is not of a synthetic corpus"),
    ):
        capsys.readouterr()
        assert make_session.main([*arguments, "--out", str(out)]) == 2
        assert wanted in capsys.readouterr().err
        assert not out.exists()


def test_the_recordings_are_those_that_their_page_names(root: Path) -> None:
    folder = root / "examples" / "recordings"
    page = (folder / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| \[(\w+)\.wav\]\(\1\.wav\) \| (\d\d)\w\d\d([WFNT])\w \|", page)
    emotions = {"angry": "W", "happy": "F", "neutral": "N", "sad": "T"}
    assert {name: emotion for name, _, emotion in rows} == emotions
    assert len({speaker for _, speaker, _ in rows}) == len(rows)
    assert {path.stem for path in folder.glob("*.wav")} == set(emotions)
    for path in folder.glob("*.wav"):
        with wave.open(str(path)) as sound:
            assert sound.getparams()[:3] == (1, 2, 16_000)
            assert 2 < sound.getnframes() / 16_000 < 4
    assert "CC0 1.0" in page
    assert "Burkhardt" in page


def test_the_demo_answers_every_pattern(root: Path, tmp_path: Path) -> None:
    plot = tmp_path / "answers.png"
    ran = call(main, root / "examples" / "utterances.jsonl", "--format", "json", "--plot", plot)
    assert (ran.code, ran.err) == (0, "")
    answers = {answer["input"]: answer for answer in ran.answers}
    for emotion in ("angry", "happy", "neutral", "sad"):
        for name, pattern in ((f"{emotion}.wav", "a"), (f"{emotion}.wav, with its words", "a_t")):
            assert (answers[name]["label"], answers[name]["pattern"]) == (emotion, pattern)
    assert [answers[n]["label"] for n in ("good news", "bad news")] == ["happy", "sad"]
    assert {answer["pattern"] for answer in ran.answers} == {"a", "t", "a_t"}
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "examples/utterances.jsonl --plot" in (root / "Makefile").read_text()


def test_the_table_of_the_speech_corpora(root: Path, tmp_path: Path, capsys: Any) -> None:
    prepare = load_example(root, "speech/prepare.py")
    names = {
        "ravdess": [f"03-01-0{e}-01-01-01-{a}" for e in (1, 3, 4, 5) for a in ("01", "09")],
        "emodb": [f"{s}a01{e}a" for s in ("03", "14") for e in "WFNT"],
        "nemo": [f"{s}_{e}_7" for s in ("EB0", "SM0") for e in ("anger", "neutral", "sadness")],
    }
    for corpus, files in names.items():
        folder = tmp_path / "sound" / corpus
        folder.mkdir(parents=True)
        for name in files:
            (folder / f"{name}.flac").touch()
    comments = tmp_path / "goemotions"
    comments.mkdir()
    for part in ("train", "validation"):
        comment_lines = [
            f"{part}{i}{label},{label},{part} {label}"
            for label in ("angry", "happy", "neutral", "sad")
            for i in range(4)
        ]
        (comments / f"{part}.csv").write_text("\n".join(["id,label,text", *comment_lines]))
    table = tmp_path / "table.csv"
    assert prepare.main([str(tmp_path), "--out", str(table)]) == 0
    made = table.read_bytes()
    rows = list(csv.DictReader(made.decode().splitlines()))
    assert len(rows) == len({row["id"] for row in rows}) == 2 * 22 + 2 * 16
    parts = {"train", "validation", "test"}
    assert {row["part"] for row in rows} == parts
    trained = {row["speaker"] for row in rows if row["part"] == "train"}
    assert trained.isdisjoint(row["speaker"] for row in rows if row["part"] != "train")
    for row in rows:
        if row["text"].startswith(("train", "validation")):
            assert row["text"].startswith("train") == (row["part"] == "train")
        if row["id"].endswith("+own"):
            own = {"r": "Kids are", "e": "Der Lappen", "n": row["text"].split()[0] + " neutral"}
            assert row["text"].startswith(own[row["id"][0]])
        if row["id"].endswith("+comment"):
            assert row["text"].endswith(row["label"])
    assert prepare.main([str(tmp_path), "-o", str(table)]) == 0
    assert table.read_bytes() == made
    assert prepare.main([str(tmp_path), "--corpus", "emodb", "-o", str(table)]) == 0
    assert "ravdess" not in table.read_text()
    capsys.readouterr()
    (tmp_path / "sound" / "emodb" / "03a01Xa.flac").touch()
    assert prepare.main([str(tmp_path), "-o", str(table)]) == 2
    assert "03a01Xa.flac: not a name that emodb gives" in capsys.readouterr().err


def test_noise_and_figures_of_the_cross_validation(root: Path) -> None:
    example = load_example(root, "speech/crossvalidate.py")
    tone = np.sin(np.arange(32000) / 5).astype(np.float32) * 0.1
    noise = example.pink(example.Sound(tone, 16000), 10.0, 1).samples - tone
    assert 10 * np.log10(np.mean(tone**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.3)
    low, high = (np.abs(np.fft.rfft(noise))[a:b].mean() for a, b in ((20, 200), (2000, 9000)))
    assert low > 3 * high, "pink, not white"
    answers = example.Answers()
    answers.add("nemo", np.array([[4.0, 0, 0, 0], [0, 4, 0, 0]]), [0, 2])
    answers.add("ravdess", np.array([[4.0, 0, 0, 0]]), [0])
    assert answers.row()[:4] == ["1.000", "-", "0.500", "-"]
