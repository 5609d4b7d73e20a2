"""A front-end of a user's own, as docs/frontends.md has it: the contract, and a bundle on it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_bundles import ALL

from ifmmin.runtime import Recognizer
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.frontends.base import FrontEnd
from ifmmin.runtime.frontends.openface import COLUMNS

ROOT = Path(__file__).parents[3]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs" / "frontends.md").read_text(), re.M | re.S
)
(EXAMPLE,) = [block for block in BLOCKS if "class Octaves" in block]
(USE,) = [block for block in BLOCKS if "Octaves()" in block]
(OPENFACE,) = [block for block in BLOCKS if "OpenFace(" in block]
RATE = 16_000


def _octaves() -> FrontEnd:
    names: dict[str, Any] = {}
    exec(EXAMPLE, names)
    made: FrontEnd = names["Octaves"]()
    return made


def _tone(hertz: float, seconds: float = 1.0, rate: int = RATE) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate).astype(np.float32)


def test_it_has_some_thirty_lines() -> None:
    _, _, body = EXAMPLE.partition("class ")
    assert len([line for line in body.splitlines() if line.strip()]) <= 30


def test_a_tone_lies_in_its_octave() -> None:
    for octave, hertz in enumerate((350, 700, 1400, 2800, 5600)):
        frames = _octaves().whole((_tone(hertz), RATE))
        assert frames.shape == (10, 5)
        assert (frames.argmax(axis=1) == octave).all()


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 9000), max_size=5), saved=st.integers(0, 5),
       rate=st.sampled_from([8000, RATE, 44100]))  # fmt: skip
def test_pieces_give_what_the_whole_does(cuts: list[int], saved: int, rate: int) -> None:
    """Also where a copy carries on from a state."""
    samples = np.random.default_rng(0).normal(size=9000).astype(np.float32)
    pieces = np.split(samples, sorted(cuts))
    frontend, made = _octaves(), []
    for index, piece in enumerate(pieces):
        if index == saved:
            state, other = frontend.state(), copy.copy(frontend)
            other.reset(state)
            frontend.reset()
            frontend = other
        made.append(frontend.stream((piece, rate), last=index == len(cuts)))
    whole = frontend.whole((samples, rate))
    np.testing.assert_allclose(np.concatenate(made), whole, rtol=1e-4, atol=1e-4)
    assert frontend.describe() == _octaves().describe()


def test_a_state_of_another_is_refused() -> None:
    frontend = _octaves()
    with pytest.raises(InputError, match="state of a front-end: wanted rest"):
        frontend.reset({"rest": np.zeros(0, np.float32)})


def test_a_bundle_answers_it(
    make_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines under the example, and the same sound as it comes."""
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "bundle").symlink_to(make_bundle(ALL, shapes=("latency", "stream")))
    soundfile.write(tmp_path / "clip.wav", _tone(700), RATE)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(EXAMPLE + USE, names)
    recognizer = names["recognizer"]
    assert isinstance(recognizer, Recognizer)
    answer = recognizer.recognize(sound="clip.wav")
    assert str(answer.pattern) == "a"
    with recognizer.stream() as stream:
        for piece in np.split(_tone(700), 8):
            stream.push_sound(piece, RATE)
        np.testing.assert_allclose(stream.predict().probabilities, answer.probabilities, atol=1e-3)


def test_another_width_is_refused(make_bundle: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="octaves makes 5 features a frame, the bundle takes 7"):
        Recognizer(make_bundle(ALL, shapes=("latency", "stream")), frontends={"v": _octaves()})


def test_the_lines_on_openface_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [["success", *COLUMNS], *[["1"] + ["0.5"] * len(COLUMNS)] * 3]
    for name in ("clip.csv", "growing.csv"):
        Path(name).write_text("".join(", ".join(row) + "\n" for row in rows))
    names: dict[str, Any] = {}
    exec(OPENFACE, names)
    assert names["frontend"].stream("growing.csv").shape == (0, 35)  # the lines have read it
    assert names["frontend"].whole("clip.csv").shape == (3, 35)
