"""From a table of recordings and words to a corpus, and on to a bundle that takes them."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile
from fake_frontends import LOG, SOUND, WAIT, WORDS, Levels, Words
from hypothesis import given, settings
from hypothesis import strategies as st
from run_command import Ran, call, mistake

from ifmmin.export.bundle_cli import main as bundle_main
from ifmmin.export.cli import main as export
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.errors import CorpusError
from ifmmin.runtime.frontends import openface
from ifmmin.runtime.frontends.sound import mono, read_sound
from ifmmin.runtime.modality import Modality
from ifmmin.train.checkpoint import load_checkpoint
from ifmmin.train.cli import main
from ifmmin.train.data import load_corpus
from ifmmin.train.data.corpus import PARTS, Corpus
from ifmmin.train.data.recordings import Recording, split
from ifmmin.train.data.released import ReleasedLayout
from ifmmin.train.extract import noisy
from ifmmin.train.recipe import load_recipe

RATE = 16_000
COLUMNS = ("id", "sound", "text", "label", "speaker")
OWN = ("--frontend", f"a={SOUND}", "--frontend", f"t={WORDS}")
SAID = {"sad": "it is so cold here", "happy": "what a day", "angry": "go away now"}
FEW = ("stage1.decay_epochs=1", "stage2.decay_epochs=1", "stage1.steps_per_epoch=4",
       "stage2.steps_per_epoch=4")  # fmt: skip


@pytest.fixture(autouse=True)
def _own_front_ends(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.syspath_prepend(str(root / "tests" / "support"))


def _wav(path: Path, seed: int, loud: float = 0.2, seconds: float = 0.5) -> str:
    draws = np.random.default_rng(seed)
    x = loud * draws.uniform(-1, 1, round(RATE * seconds))
    x *= np.interp(np.linspace(0, 5, len(x)), range(6), draws.uniform(0.1, 1, 6))
    soundfile.write(path, x, RATE, subtype="PCM_16")
    return path.name


def _rows(folder: Path, speakers: int = 4) -> list[dict[str, str]]:
    """Of each speaker and class one with sound and words, one with sound, one with words."""
    rows = []
    for speaker in range(speakers):
        for number, label in enumerate(SAID):
            seed = 10 * speaker + number
            loud = (0.05, 0.2, 0.6)[number]
            one = {"label": label, "speaker": f"s{speaker}"}
            both = _wav(folder / f"{seed}.wav", seed, loud)
            alone = _wav(folder / f"{seed}-b.wav", 100 + seed, loud)
            rows += [
                one | {"id": f"{seed}-both", "sound": both, "text": SAID[label]},
                one | {"id": f"{seed}-sound", "sound": alone},
                one | {"id": f"{seed}-words", "text": f"{SAID[label]} {speaker}"},
            ]
    return rows


def _table(folder: Path, rows: list[dict[str, str]], columns: tuple[str, ...] = COLUMNS) -> Path:
    path = folder / "recordings.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def _extract(table: Path, out: Path, *more: object, jobs: int = 2) -> Ran:
    return call(main, "extract", table, "-o", out, *OWN, "--jobs", jobs, *more)


def _corpus(out: Path, fold: int = 1) -> Corpus:
    layout = load_recipe(str(out)).corpus
    return load_corpus(layout, fold=fold, features=out / "features", targets=out / "targets")


def test_a_table_becomes_a_corpus_that_trains_and_a_bundle_that_names_its_front_ends(
    tmp_path: Path,
) -> None:
    rows, out = _rows(tmp_path), tmp_path / "corpus"
    ran = _extract(_table(tmp_path, rows), out)
    assert ran.code == 0, ran.err
    tested: Counter[str] = Counter()
    corpus, found = _corpus(out, 1), {}
    for fold in range(1, 5):
        corpus = _corpus(out, fold)
        assert corpus.labels == ("angry", "happy", "sad")
        found = {u.name: u for part in PARTS for u in corpus.parts[part]}
        assert set(found) == {row["id"] for row in rows}
        speakers = [{_speaker(u.name) for u in corpus.parts[part]} for part in PARTS]
        assert sum(map(len, speakers)) == len(set.union(*speakers)) == 4
        tested.update(speakers[2])
    assert set(tested.values()) == {1}
    for row in rows:
        one = found[row["id"]]
        assert corpus.labels[one.label] == row["label"]
        wanted = {}
        if row.get("sound"):
            wanted["a"] = Levels().features(str(tmp_path / row["sound"]))
        if row.get("text"):
            wanted["t"] = Words().features(row["text"])
        assert {m.value for m in one.features} == set(wanted)
        for letter, features in wanted.items():
            np.testing.assert_array_equal(one.features[Modality(letter)], features)

    few = [word for text in FEW for word in ("--set", text)]
    run = call(main, "fit", "--recipe", "robust", "--corpus", out, *few, "-o", tmp_path / "run")
    assert run.code == 0, run.err
    assert [line.split()[1] for line in run.out.splitlines() if line[0] == "|"][2:5] == [
        "a", "t", "a_t"
    ]  # fmt: skip
    checkpoint = tmp_path / "run" / "model.safetensors"
    again = call(main, "evaluate", checkpoint, "--recipe", out)
    assert (again.code, again.out) == (0, run.out)
    made = load_checkpoint(checkpoint)[0].config.features[Modality.A].frontend
    assert made == Levels().describe()
    assert call(export, checkpoint, "--shape", "latency", "-o", tmp_path / "bundle").code == 0
    verified = call(bundle_main, "verify", "-b", tmp_path / "bundle")
    assert verified.code == 0, verified.err
    assert "has no front-end levels" in verified.err  # which is the user's to have
    bundle = Bundle(tmp_path / "bundle")
    assert [str(p) for p in bundle.patterns] == ["a", "t", "a_t"]
    assert bundle.manifest.modalities[Modality.T].frontend == Words().describe()


def test_openface_needs_no_front_end_to_be_named(tmp_path: Path) -> None:
    rows, draws = [], np.random.default_rng(0)
    for number in range(12):
        units = draws.uniform(0, 5, (2, len(openface.COLUMNS))).round(2)
        lines = [
            ",".join(["frame", "face_id", "timestamp", "confidence", "success", *openface.COLUMNS]),
            *(",".join(["1", "0", "0.0", "0.9", "1", *map(str, frame)]) for frame in units),
        ]
        (tmp_path / f"{number}.csv").write_text("\n".join(lines) + "\n")
        rows.append({"id": str(number), "openface": f"{number}.csv", "label": "ab"[number % 2],
                     "speaker": str(number // 2)})  # fmt: skip
    table = _table(tmp_path, rows, ("id", "openface", "label", "speaker"))
    ran = call(main, "extract", table, "-o", tmp_path / "corpus", "--jobs", "1")
    assert ran.code == 0, ran.err
    layout = load_recipe(str(tmp_path / "corpus")).corpus
    assert isinstance(layout, ReleasedLayout)
    assert {m: file.frontend for m, file in layout.files.items()} == {
        Modality.V: openface.specify()
    }  # fmt: skip
    found = _datasets(tmp_path / "corpus" / "features" / "V" / "openface.h5")
    assert {name: x.shape for name, x in found.items()} == {
        str(n): (1, len(openface.COLUMNS)) for n in range(12)
    }


def _speaker(name: str) -> str:
    return str(int(name.partition("-")[0]) // 10)


def _call_of(table: Path, out: Path) -> list[str]:
    command = ["extract", str(table), "-o", str(out), *OWN, "--jobs", "2"]
    return [sys.executable, "-m", "ifmmin.train.cli", *command]


def test_what_a_killed_run_made_is_not_made_again(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, log = _table(tmp_path, _rows(tmp_path)), tmp_path / "log"
    environment = os.environ | {
        LOG: str(log), WAIT: "0.1", "PYTHONPATH": str(root / "tests" / "support")
    }  # fmt: skip
    process = subprocess.Popen(
        _call_of(table, tmp_path / "killed"), stderr=subprocess.DEVNULL, env=environment
    )
    while process.poll() is None and not (log.is_file() and len(log.read_text().split("\n")) > 6):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    begun = len(log.read_text().splitlines())
    time.sleep(0.5)
    assert len(log.read_text().splitlines()) == begun  # nothing works on for a dead parent
    made = len(list((tmp_path / "killed" / "cache").glob("*/*.npy")))
    assert 0 < made < 36
    log.unlink()
    monkeypatch.setenv(LOG, str(log))
    assert _extract(table, tmp_path / "killed").code == 0
    wanted = {row.get(c) for row in _rows(tmp_path) for c in ("sound", "text")} - {None}
    assert len(log.read_text().splitlines()) == len(wanted) - made
    assert _extract(table, tmp_path / "whole").code == 0
    for name in ("A/levels.h5", "L/words.h5"):
        one, other = (_datasets(tmp_path / run / "features" / name) for run in ("killed", "whole"))
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)


def _datasets(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return {name: item[()] for name, item in file.items()}


def test_more_rows_make_what_is_new_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, out = _rows(tmp_path), tmp_path / "corpus"
    assert _extract(_table(tmp_path, rows), out).code == 0
    log = tmp_path / "log"
    monkeypatch.setenv(LOG, str(log))
    rows.append({"id": "new", "text": "one more", "label": "sad", "speaker": "s1"})
    # The same words and the same sound are the same work.
    rows.append({"id": "same", "text": rows[0]["text"], "sound": rows[1]["sound"],
                 "label": "sad", "speaker": "s1"})  # fmt: skip
    assert _extract(_table(tmp_path, rows), out).code == 0
    assert log.read_text().splitlines() == ["one more"]
    corpus = _corpus(out)
    assert sum(len(corpus.parts[part]) for part in PARTS) == len(rows)


BROKEN = {
    "there is no file": ({"sound": "nowhere.wav"}, "nowhere.wav cannot be read"),
    "no sound": ({"sound": "recordings.csv"}, "recordings.csv"),
    "a folder": ({"sound": "."}, "a directory"),
    "a front-end that fails": ({"text": "raise"}, "ValueError: no such word"),
    "a front-end that refuses": ({"text": "refuse"}, "this is not said"),
    "what is no number": ({"text": "not a number"}, "wanted (frames, 8), all finite"),
    "another width": ({"text": "narrow"}, "gave (3, 7), wanted (frames, 8)"),
}


def test_of_broken_rows_a_line_each_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    rows, out = _rows(tmp_path), tmp_path / "corpus"
    good = {row["id"] for row in rows}
    more = [
        {"id": f"bad {name}", "label": "sad", "speaker": "s1"} | signals
        for name, (signals, _) in BROKEN.items()
    ]
    half = {"id": "half", "label": "sad", "speaker": "s1", "sound": "none.wav", "text": "I am here"}
    ran = _extract(_table(tmp_path, [*rows, *more, half]), out)
    assert (ran.code, ran.out) == (1, "")
    told = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert len(told) == len(BROKEN) + 1
    for name, (_, reason) in BROKEN.items():
        (line,) = (line for line in told if f"bad {name}," in line)
        assert reason in line
    found = {u.name: u for part in PARTS for u in _corpus(out).parts[part]}
    assert set(found) == {*good, "half"}
    assert set(found["half"].features) == {Modality.T}
    assert "nothing could be made of any of its rows" in mistake(
        main, "extract", _table(tmp_path, _lost(more)), "-o", tmp_path / "none", *OWN
    )


def _lost(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Of three speakers and two classes."""
    signals = [
        {"sound": "nowhere.wav", "text": "raise", "id": str(i), "speaker": str(i % 3),
         "label": ("sad", "happy")[i % 2]}
        for i in range(len(rows))
    ]  # fmt: skip
    return signals


def test_silence_and_empty_words_are_missing(tmp_path: Path) -> None:
    rows, out = _rows(tmp_path), tmp_path / "corpus"
    rows[0]["sound"] = _wav(tmp_path / "silent.wav", 0, loud=0.0)
    rows[1]["sound"] = _wav(tmp_path / "short.wav", 0, seconds=0.01)
    ran = _extract(_table(tmp_path, rows), out)
    assert ran.code == 0
    assert "note: 2 signals have nothing in them" in ran.err
    found = {u.name: u for part in PARTS for u in _corpus(out).parts[part]}
    assert set(found[rows[0]["id"]].features) == {Modality.T}
    assert rows[1]["id"] not in found


def test_noisy_copies_are_for_training_alone_and_the_same_again(tmp_path: Path) -> None:
    rows = _rows(tmp_path)
    table = _table(tmp_path, rows)
    for name in ("one", "two"):
        assert _extract(table, tmp_path / name, "--noisy", "2").code == 0
    first, second = (
        _datasets(tmp_path / name / "features" / "A" / "levels.h5") for name in ("one", "two")
    )
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    corpus = _corpus(tmp_path / "one")
    for part in PARTS:
        copies = [u for u in corpus.parts[part] if "~" in u.name]
        heard = [u for u in corpus.parts[part] if "~" not in u.name and "words" not in u.name]
        assert len(copies) == (2 * len(heard) if part == "train" else 0)
    by_name = {u.name: u for u in corpus.parts["train"]}
    for name, one in by_name.items():
        own = by_name[name.partition("~")[0]]
        assert (one.label, set(one.features)) == (own.label, set(own.features))
        if name != own.name:
            assert not np.array_equal(one.features[Modality.A], own.features[Modality.A])
            if Modality.T in one.features:
                assert np.array_equal(one.features[Modality.T], own.features[Modality.T])


def test_noise_is_as_loud_as_it_says(tmp_path: Path) -> None:
    time_axis = np.arange(RATE) / RATE
    tone = np.where(time_axis < 0.5, 0.05 * np.sin(2 * np.pi * 440 * time_axis), 0.0)
    soundfile.write(tmp_path / "tone.wav", tone, RATE, subtype="FLOAT")
    clean = mono(read_sound(tmp_path / "tone.wav"))
    ratios, gains, low = [], [], []
    for seed in range(60):
        x = noisy(str(tmp_path / "tone.wav"), np.random.default_rng(seed)).samples.astype(float)
        gain = float(x @ clean / (clean @ clean))
        rest = x - gain * clean
        ratios.append(10 * np.log10(gain**2 * np.mean(clean[:8000] ** 2) / np.mean(rest**2)))
        gains.append(20 * np.log10(gain))
        power = np.abs(np.fft.rfft(rest)) ** 2
        low.append(power[:1000].sum() / power.sum())
    assert 2.5 < min(ratios) < 6
    assert 22 < max(ratios) < 25.5
    assert -10.5 < min(gains) < -7
    assert 7 < max(gains) < 10.5
    assert sum(share < 0.2 for share in low) > 15  # white: an eighth lies below 1 kHz
    assert sum(share > 0.5 for share in low) > 15  # pink


Rows = list[dict[str, str]]
MISTAKES: dict[str, tuple[str, Callable[[Rows], object]]] = {
    "an id twice": ("id 0-both stands 2 times", lambda rows: rows.append(rows[0])),
    "no label": ("row 3: label is empty", lambda rows: rows[1].update(label=" ")),
    "no speaker": ("row 3: speaker is empty", lambda rows: rows[1].update(speaker="")),
    "nothing to go by": ("none of sound, text", lambda rows: rows[1].update(sound="", text="")),
    "a path for an id": ("no /", lambda rows: rows[1].update(id="a/b")),
    "an id that does not print": ("that print", lambda rows: rows[1].update(id="a\x07")),
    "a single speaker": ("got 1 speaker, wanted 3", lambda rows: _all(rows, speaker="me")),
    "a single class": ("wanted", lambda rows: _all(rows, label="sad")),
    "another part": ("got the parts dev, train", lambda rows: _parts(rows, "train", "dev")),
    "a part lacks": ("wanted train, validation, test", lambda rows: _parts(rows, "train", "test")),
    "a row without part": ("an empty one", lambda rows: _parts(rows, "train", "")),
    "no rows": ("it has no rows", lambda rows: rows.clear()),
}


def _all(rows: list[dict[str, str]], **cells: str) -> None:
    for row in rows:
        row.update(cells)


def _parts(rows: list[dict[str, str]], *names: str) -> None:
    for number, row in enumerate(rows):
        row["part"] = names[number % len(names)]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_table_is_told_before_any_work(name: str, tmp_path: Path) -> None:
    message, spoil = MISTAKES[name]
    rows = _rows(tmp_path)
    spoil(rows)
    columns = (*COLUMNS, "part") if rows and "part" in rows[0] else COLUMNS
    table = _table(tmp_path, rows, columns)
    said = mistake(main, "extract", table, "-o", tmp_path / "corpus", *OWN)
    assert message in said
    assert not (tmp_path / "corpus").exists()


TABLES = {
    "another encoding": ("id,text,label,speaker\n1,caf\u00e9,sad,s\n".encode("latin-1"), "UTF-8"),
    "no columns": (b"1,a.wav,sad,s\n", "wanted each once: id, label, speaker and some of"),
    "a column twice": (b"id,text,text,label,speaker\n", "wanted each once"),
    "no signals": (b"id,label,speaker\n1,sad,s\n", "some of sound, text, openface, video"),
    "nothing": (b"", "is no table in CSV: it is empty"),
    "a cell too many": (b"id,text,label,speaker\n1,a,sad,s,5\n", "row 2: got 5 cells, wanted 4"),
    "faces by two ways": (
        b"id,openface,video,label,speaker\n1,a,b,sad,s\n", "openface and video are both filled"),
    "a quote without end": (b'id,text,label,speaker\n1,"a,sad,s\n', "is no table in CSV"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_what_is_no_table_is_told(name: str, tmp_path: Path) -> None:
    content, message = TABLES[name]
    (tmp_path / "t.csv").write_bytes(content)
    assert message in mistake(main, "extract", tmp_path / "t.csv", "-o", tmp_path / "c", *OWN)
    said = mistake(main, "extract", tmp_path / "none.csv", "-o", tmp_path / "c", *OWN)
    assert "none.csv cannot be read: No such file or directory" in said


OPTIONS = {
    "a label that is not wanted": (("--labels", "sad,happy"), "id 2-both: got label 'angry'"),
    "too many folds": (("--folds", "5"), "wanted 3 to the 4 speakers"),
    "too few folds": (("--folds", "2"), "wanted 3 to the 4 speakers"),
    "no such front-end": (("--frontend", "v=x"), "no row has a signal of v"),
    "no processes": (("--jobs", "0"), "--jobs must be 1"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_mistake_in_the_options_is_told(name: str, tmp_path: Path) -> None:
    given_options, message = OPTIONS[name]
    table = _table(tmp_path, _rows(tmp_path))
    said = mistake(main, "extract", table, "-o", tmp_path / "corpus", *OWN, *given_options)
    assert message in said


@pytest.mark.parametrize("place", ["nowhere", "fake_frontends:none", "fake_frontends:nothing"])
def test_what_is_no_front_end_is_told(place: str, tmp_path: Path) -> None:
    table = _table(tmp_path, _rows(tmp_path))
    own = ("--frontend", f"a={place}", "--frontend", f"t={WORDS}")
    said = mistake(main, "extract", table, "-o", tmp_path / "corpus", *own)
    assert place in said


def test_a_table_may_name_the_parts_of_a_single_fold(tmp_path: Path) -> None:
    rows = _rows(tmp_path)
    for number, row in enumerate(rows):
        row |= {"part": PARTS[(number // 9) % 3], "speaker": "the only one"}
    table = _table(tmp_path, rows, (*COLUMNS, "part"))
    ran = _extract(table, tmp_path / "corpus", "--noisy", 1)
    assert ran.code == 0, ran.err
    corpus = _corpus(tmp_path / "corpus")
    for part in PARTS:
        wanted = {row["id"] for row in rows if row["part"] == part}
        assert {u.name for u in corpus.parts[part] if "~" not in u.name} == wanted
        assert any("~" in u.name for u in corpus.parts[part]) == (part == "train")
    assert "1 fold" in ran.err
    assert "leave one out" in mistake(
        main, "extract", table, "-o", tmp_path / "c", *OWN, "--folds", 3
    )


def test_labels_set_the_classes_and_their_order_and_nothing_else_is_replaced(
    tmp_path: Path,
) -> None:
    table = _table(tmp_path, _rows(tmp_path))
    assert (
        _extract(table, tmp_path / "corpus", "--labels", "sad, angry,happy", "--folds", 3).code == 0
    )
    assert _corpus(tmp_path / "corpus").labels == ("sad", "angry", "happy")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").touch()
    said = mistake(main, "extract", table, "-o", tmp_path / "other", *OWN)
    assert "in use by something else" in said
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["mine"]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abc")), min_size=3, max_size=80),
    st.integers(3, 8) | st.none(),
)
def test_no_speaker_is_in_two_parts_and_each_is_tested_once(
    rows: list[tuple[int, str]], folds: int | None
) -> None:
    recordings = [
        Recording(str(i), label, str(speaker), {}) for i, (speaker, label) in enumerate(rows)
    ]
    speakers = {one.speaker for one in recordings}
    if len(speakers) < 3 or (folds is not None and folds > len(speakers)):
        with pytest.raises(CorpusError, match="speaker"):
            split(recordings, folds)
        return
    found = split(recordings, folds)
    assert len(found) == (folds or min(5, len(speakers)))
    for parts in found:
        assert sorted(one.name for some in parts.values() for one in some) == sorted(
            one.name for one in recordings
        )
        heard = [{one.speaker for one in parts[part]} for part in PARTS]
        assert all(heard)
        assert sum(map(len, heard)) == len(speakers)
    tested = Counter(one.speaker for parts in found for one in {
        o.speaker: o for o in parts["test"]}.values())  # fmt: skip
    assert tested == dict.fromkeys(speakers, 1)


def test_groups_of_equal_speakers_are_even() -> None:
    recordings = [
        Recording(f"{speaker}-{i}", "ab"[i % 2], str(speaker), {})
        for speaker in range(20)
        for i in range(10)
    ]
    assert {len(parts["test"]) for parts in split(recordings, None)} == {40}
