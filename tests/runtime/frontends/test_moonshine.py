"""Moonshine: words of recordings, by how many of them are wrong; nothing where nobody speaks."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.frontends.moonshine import transcribe
from ifmmin.runtime.frontends.sound import mono, read_sound

pytest.importorskip("onnxruntime")
RATE = 16_000
SENTENCES = {"01": "kids are talking by the door", "02": "dogs are sitting by the door"}
"""By the number of the statement in a recording's name."""
needs_weights = pytest.mark.skipif(
    find_spec("moonshine_voice") is None, reason="moonshine-voice is not installed: the extra asr"
)


@pytest.fixture(scope="module")
def recordings() -> list[Path]:
    folder = Path(__file__).parents[4] / "shared" / "data" / "sound" / "ravdess"
    if not folder.is_dir():
        pytest.skip("the recordings of RAVDESS are not at ../shared/data/sound/ravdess")
    return sorted(folder.glob("*.flac"))


def _words(text: str) -> list[str]:
    return re.sub("[^a-z ]", "", text.lower()).split()


def _edits(wanted: list[str], got: list[str]) -> int:
    """Words to put in, take out or exchange (Levenshtein)."""
    row = list(range(len(got) + 1))
    for index, word in enumerate(wanted, 1):
        before, row[0] = row[:], index
        for place, other in enumerate(got, 1):
            row[place] = min(
                before[place] + 1, row[place - 1] + 1, before[place - 1] + (word != other)
            )
    return row[-1]


def error_rate(recordings: list[Path]) -> float:
    """Edits per word of the sentences that the names of recordings tell."""
    pairs = [
        (SENTENCES[path.stem.split("-")[4]].split(), _words(transcribe(path)))
        for path in recordings
    ]
    return sum(_edits(*pair) for pair in pairs) / sum(len(wanted) for wanted, _ in pairs)


def test_edits_are_counted() -> None:
    assert _edits(["a", "b", "c"], ["a", "b", "c"]) == 0
    assert _edits(["a", "b", "c"], ["x", "a", "c", "d"]) == 3
    assert _edits(["a"], []) == 1


@needs_weights
def test_few_words_are_wrong(recordings: list[Path]) -> None:
    rate = error_rate(recordings[::28])
    print(f"word error rate {rate:.3f}")  # noqa: T201 - what pytest -s is asked for
    assert rate < 0.12


@needs_weights
def test_a_long_sound_is_cut_where_it_is_quiet(recordings: list[Path]) -> None:
    """No word is lost at a cut, and the text goes on in the order of the sound."""
    clips = [mono(read_sound(path)) for path in recordings[::56]]
    text = transcribe((np.concatenate(clips), RATE))
    wanted = [word for path in recordings[::56] for word in SENTENCES[path.stem[12:14]].split()]
    assert len(np.concatenate(clips)) > 30 * RATE
    assert _edits(wanted, _words(text)) < 0.15 * len(wanted)


@needs_weights
@pytest.mark.parametrize(
    "samples", [np.zeros(0), np.zeros(3), np.ones(1599), np.zeros(2 * RATE), np.zeros((RATE, 2))]
)
def test_where_nothing_is_heard_there_are_no_words(samples: NDArray[np.float64]) -> None:
    assert transcribe((samples, RATE)) == ""


@needs_weights
@pytest.mark.parametrize("sound", [b"", (np.full(RATE, np.nan), RATE), "nowhere.wav", None])
def test_what_is_no_sound_is_refused(sound: Any) -> None:
    with pytest.raises(InputError, match=r"sound|nowhere.wav"):
        transcribe(sound)


@needs_weights
def test_its_package_is_not_run() -> None:
    assert "moonshine_voice" not in sys.modules


def test_without_the_weights_the_cure_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Newer wheels have none; and without any there is no package at all."""
    package = tmp_path / "moonshine_voice"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('run')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"ifmmin\[asr\]"):
        transcribe((np.zeros(RATE), RATE), threads=2)
