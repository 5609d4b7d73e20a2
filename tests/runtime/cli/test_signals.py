"""`ifmmin-run` on sound and words with the bundle that ships; what is none gets one line."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from run_command import call

from ifmmin.runtime import Modality, Recognizer
from ifmmin.runtime.cli.readers import find_inputs
from ifmmin.runtime.cli.run import RunOptions, answer_all, main
from ifmmin.runtime.cli.writers import Answer
from ifmmin.runtime.frontends.base import FrontEnd

EMOTIONS = ("angry", "happy", "neutral", "sad")
RATE = 16000
Samples = NDArray[Any]


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(backend="onnxruntime-cpu")


@pytest.fixture
def recordings(root: Path) -> Path:
    return root / "examples" / "recordings"


@pytest.fixture
def sad(recordings: Path) -> Samples:
    read: Any = soundfile.read(recordings / "sad.wav")
    samples: Samples = read[0]
    return samples


def run(*arguments: object, code: int = 0) -> str:
    ran = call(main, *arguments)
    assert ran.code == code, ran.err
    return ran.out


def answers(*arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*arguments, "--format", "json").splitlines()]


def refused(*arguments: object) -> str:
    ran = call(main, *arguments)
    assert (ran.code, ran.out) == (2, ""), ran.err
    assert len(ran.err.splitlines()) == 1
    return ran.err


def test_recordings_and_what_is_said(
    recordings: Path, tmp_path: Path, recognizer: Recognizer
) -> None:
    for name in ("angry", "sad"):
        shutil.copy(recordings / f"{name}.wav", tmp_path)
    (tmp_path / "sad.txt").write_text("I am so sad.\n", encoding="utf-8")
    both = answers(tmp_path)
    assert [(one["input"], one["pattern"]) for one in both] == [
        ("angry.wav", "a"), ("sad.wav", "a_t"),
    ]  # fmt: skip
    assert [one["label"] for one in both] == ["angry", "sad"]
    wanted = recognizer.recognize(sound=recordings / "sad.wav", text="I am so sad.")
    np.testing.assert_allclose(both[1]["logits"], wanted.logits, atol=1e-5)
    (told,) = answers(recordings / "sad.wav", "--text", "I am so sad.")
    assert told["logits"] == both[1]["logits"]
    (alone,) = answers("--text", "I am so sad.")
    assert (alone["pattern"], alone["label"]) == ("t", "sad")
    (voice,) = answers(tmp_path / "sad.wav", "--pattern", "a")
    assert voice["pattern"] == "a"
    rows = list(csv.DictReader(io.StringIO(run(tmp_path, "--format", "csv"))))
    assert [row["label"] for row in rows] == ["angry", "sad"]
    lines = tmp_path / "lines.jsonl"
    lines.write_text(
        '{"id": 1, "sound": "sad.wav", "text": "I am so sad."}\n{"id": 2, "text": "fine"}\n'
    )
    first, second = answers(lines)
    assert first["logits"] == told["logits"]
    assert second["pattern"] == "t"


def test_a_long_recording_has_an_answer_for_every_utterance(
    recordings: Path, tmp_path: Path
) -> None:
    pieces: list[Samples] = []
    begins: list[float] = []
    for name in EMOTIONS * 2:
        begins.append(sum(len(piece) for piece in pieces) / RATE)
        pieces += [soundfile.read(recordings / f"{name}.wav")[0], np.zeros(RATE)]
    long = tmp_path / "long.wav"
    soundfile.write(long, np.concatenate(pieces), RATE)
    found = answers(long, "--plot", tmp_path / "long.png", "-o", tmp_path / "long.csv")
    assert 8 <= len(found) <= 12
    ends = 0.0
    for one in found:
        assert ends <= one["start"] < one["end"]
        ends = one["end"]
    middles = [(one["start"] + one["end"]) / 2 for one in found]
    numbers = (np.searchsorted(begins, middles, side="right") - 1).tolist()
    assert set(numbers) == set(range(8)), "none is left out"
    right = [one["label"] == EMOTIONS[n % 4] for n, one in zip(numbers, found, strict=True)]
    assert sum(right) >= len(found) - 2
    assert (tmp_path / "long.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "long.csv").read_text())))
    assert [float(row["start"]) for row in rows] == [one["start"] for one in found]
    assert "from s" in run(long)
    assert "seconds heard" not in call(main, long).err, "it takes no time"
    samples, _ = soundfile.read(long)
    hour = write(tmp_path / "hour.wav", np.tile(samples, 5))
    seconds = int(5 * len(samples) / RATE)
    ran = call(main, hour, long, "--format", "csv", "-o", tmp_path / "hour.csv")
    both = seconds + len(samples) // RATE
    assert ran.err.splitlines()[-1] == f"seconds heard {both}/{both}"
    assert len(ran.out.splitlines()) > 5 * len(found)
    silence = write(tmp_path / "silence.wav", np.zeros(20 * RATE))
    assert "no speech was found" in refused(silence)


class Uncut:
    """The front-end for sound without its sixth method, as openSMILE's has none."""

    def __init__(self, given: FrontEnd) -> None:
        self.describe, self.whole, self.stream = given.describe, given.whole, given.stream
        self.reset, self.state = given.reset, given.state


def test_a_front_end_that_does_not_cut_answers_a_long_recording_as_one(
    sad: Samples, tmp_path: Path, recognizer: Recognizer, capsys: pytest.CaptureFixture[str]
) -> None:
    long = write(tmp_path / "long.wav", np.tile(sad, 5))
    uncut = Recognizer(
        recognizer.predictor, frontends={"a": Uncut(recognizer.frontend(Modality.A))}
    )
    found: list[Answer] = []
    writer: Any = SimpleNamespace(add=found.append)
    tally = answer_all(uncut, find_inputs([str(long)]), RunOptions(), [writer], lambda *_: None)
    (answer,) = found
    assert (tally.total, answer.span) == (1, None)
    wanted = recognizer.recognize(sound=long)
    np.testing.assert_array_equal(answer.prediction.logits, wanted.logits)
    assert "ge2e does not cut recordings: answered as one utterance" in capsys.readouterr().err


def test_plots_of_other_inputs_and_places(recordings: Path, tmp_path: Path) -> None:
    run(recordings, "--plot", tmp_path / "all.svg")
    assert "<svg" in (tmp_path / "all.svg").read_text()
    assert "wanted a name that ends in .png" in refused(recordings, "--plot", tmp_path / "all.gif")
    (tmp_path / "x.png").mkdir()
    assert "is a directory" in refused(recordings, "--plot", tmp_path / "x.png")


def write(path: Path, samples: Samples, rate: int = RATE, **more: Any) -> Path:
    soundfile.write(path, samples, rate, **more)
    return path


RIGHT: dict[str, Callable[[Path, Samples], Path]] = {
    "telephone": lambda p, x: write(p / "x.wav", x[::2], 8000),
    "a dead channel": lambda p, x: write(p / "x.wav", np.stack([x, 0 * x], 1)),
    "clipped": lambda p, x: write(p / "x.wav", np.clip(20 * x, -1, 1)),
    "float": lambda p, x: write(p / "x.wav", x, subtype="FLOAT"),
    "flac": lambda p, x: write(p / "x.flac", x),
    "ogg": lambda p, x: write(p / "x.ogg", x),
    "mp3": lambda p, x: write(p / "x.mp3", x),
    "48 kHz": lambda p, x: write(p / "x.wav", np.repeat(x, 3), 48000),
}


@pytest.mark.parametrize("case", RIGHT)
def test_sound_of_every_kind_is_answered(case: str, sad: Samples, tmp_path: Path) -> None:
    (answer,) = answers(RIGHT[case](tmp_path, sad))
    assert answer["pattern"] == "a"
    if case not in ("clipped", "48 kHz"):
        assert answer["label"] == "sad"


WRONG: dict[str, tuple[Callable[[Path, Samples], Path], str]] = {
    "three samples": (lambda p, x: write(p / "x.wav", x[:3]), "no speech was found"),
    "no sample": (lambda p, x: write(p / "x.wav", x[:0]), "no speech was found"),
    "silence": (lambda p, x: write(p / "x.wav", 0 * x), "no speech was found"),
    "NaN": (lambda p, x: write(p / "x.wav", x * np.nan, subtype="FLOAT"), "NaN|not finite|finite"),
    "a text": (lambda p, x: Path(shutil.copy(__file__, p / "x.wav")), "no sound that can be read"),
    "an empty directory": (lambda p, x: p, "holds no recording"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_speech_gets_one_line(case: str, sad: Samples, tmp_path: Path) -> None:
    make, reason = WRONG[case]
    said = refused(make(tmp_path, sad))
    assert any(word in said for word in reason.split("|")), said


def test_words_of_every_kind(recordings: Path, tmp_path: Path) -> None:
    for text in ("\U0001f600 \U0001f62d", "word " * 10_000, "\u4f60\u597d", "x" * 100_000):
        (answer,) = answers("--text", text)
        assert answer["pattern"] == "t"
    assert "no words are in it" in refused("--text", "")
    assert "no words are in it" in refused("--text", " \t\n")
    clip = Path(shutil.copy(recordings / "sad.wav", tmp_path))
    (answer,) = answers(clip, "--text", "")
    assert answer["pattern"] == "a"
    assert answer["absent"]["t"] == "no words are in it"
    (tmp_path / "sad.txt").write_bytes("stra\u00dfe".encode("latin-1"))
    assert "sad.txt is not in UTF-8" in refused(clip)
    assert "--text goes with one recording" in refused(recordings, "--text", "fine")


def test_where_a_long_recording_is_broken_is_told(sad: Samples, tmp_path: Path) -> None:
    samples = np.concatenate([np.tile(sad, 5), [np.nan] * 9])
    ran = call(main, write(tmp_path / "x.wav", samples, subtype="FLOAT"), "--format", "csv")
    assert ran.code == 2
    seconds = 5 * len(sad) / RATE
    assert ran.err.splitlines() == [
        f"error: {tmp_path / 'x.wav'}: sound: got nan at {seconds:.3f} s, wanted finite samples"
    ]


def test_a_modality_that_the_bundle_lacks_is_named(recordings: Path) -> None:
    said = refused(recordings / "sad.wav", "--pattern", "a_v")
    assert "needs modality v, which the bundle does not have; it has a, t" in said


def test_the_decoder_of_mp3_is_not_heard(sad: Samples, tmp_path: Path) -> None:
    """It writes past Python: only the process as a whole shows it."""
    whole = write(tmp_path / "whole.mp3", np.tile(sad, 4)).read_bytes()
    noise = np.random.default_rng(0).bytes(6000)
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "no frame": whole[:200] + bytes(5000),
        "no frame later": whole[:9000] + noise + whole[15000:],
    }.items():
        (tmp_path / "x.mp3").write_bytes(content)
        ran = subprocess.run(
            [sys.executable, "-m", "ifmmin.runtime.cli.run", tmp_path / "x.mp3"],
            capture_output=True, text=True,
        )  # fmt: skip
        lines = [line for line in ran.stderr.splitlines() if not line.startswith("backend:")]
        assert (ran.returncode, len(lines)) == ((0, 0) if name == "cut" else (2, 1)), ran.stderr
        assert name == "cut" or "x.mp3 holds no sound that can be read" in lines[0]


def test_one_that_is_broken_among_many(recordings: Path, tmp_path: Path) -> None:
    shutil.copy(recordings / "sad.wav", tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    ran = call(main, tmp_path, "--format", "json")
    assert ran.code == 1
    assert [line.keys() >= {"error"} for line in map(json.loads, ran.out.splitlines())] == [
        False, True,
    ]  # fmt: skip


def updates(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_raw_sound_as_it_comes(recordings: Path, tmp_path: Path) -> None:
    samples = soundfile.read(recordings / "sad.wav", dtype="int16")[0]
    (tmp_path / "sad.pcm").write_bytes(samples.tobytes())
    snapshot = tmp_path / "state"
    found = updates(run("--pcm", RATE, tmp_path / "sad.pcm", "--snapshot", snapshot))
    assert [round(one["at"], 6) for one in found] == [
        0.5 * (i + 1) for i in range(len(samples) // (RATE // 2))
    ]
    assert (found[-1]["pattern"], found[-1]["label"]) == ("a", "sad")
    assert snapshot.stat().st_size > 0
    spoken = updates(run("--pcm", RATE, tmp_path / "sad.pcm", "--text", "So sad."))
    assert {one["pattern"] for one in spoken[-2:]} == {"a_t"}
    heard = subprocess.run(
        [sys.executable, "-m", "ifmmin.runtime.cli.run", "--pcm", str(RATE), "-"],
        input=samples.tobytes(), capture_output=True, check=True,
    )  # fmt: skip
    assert [one["label"] for one in updates(heard.stdout.decode())] == [
        one["label"] for one in found
    ]
    assert "takes one" in refused("--pcm", RATE)
    assert "wanted a rate" in refused("--pcm", 5, tmp_path / "sad.pcm")
    assert "no input at" in refused("--pcm", RATE, tmp_path / "none.pcm")
    (tmp_path / "short.pcm").write_bytes(samples[: RATE // 4].tobytes())
    assert "got 0.250 s of sound" in refused("--pcm", RATE, tmp_path / "short.pcm")
    assert "--mic takes no input" in refused("--mic", tmp_path / "sad.pcm")
    assert "is for streams" in refused(recordings, "--window", 3)


def test_the_microphone(sad: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    """A microphone that hears a recording, and then Ctrl-C."""
    module: Any = ModuleType("sounddevice")
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    module.PortAudioError = type("PortAudioError", (Exception,), {})

    class Stream:
        def __init__(self, rate: int, size: int, *, callback: Any, **_: Any) -> None:
            assert rate == RATE
            samples = (sad * 32767).astype(np.int16)[:, None]
            for at in range(0, 2 * RATE, size):
                callback(samples[at : at + size], size, None, SimpleNamespace(input_overflow=False))

        def __enter__(self) -> None:
            raise KeyboardInterrupt

        def __exit__(self, *_: object) -> None:
            pass

    module.InputStream = Stream
    assert call(main, "--mic").code == 130

    def none(*_: Any, **__: Any) -> None:
        raise module.PortAudioError("no device")

    module.InputStream = none
    assert "no microphone can be heard: no device" in refused("--mic")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert "pip install 'ifmmin[mic]'" in refused("--mic")
