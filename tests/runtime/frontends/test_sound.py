"""Sound from files and arrays: one channel at 16 kHz, whatever it was and however it was cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.frontends.sound import RATE, Mono, Sound, as_sound, blocks, mono, read_sound

soundfile = pytest.importorskip("soundfile")
RATES = [8000, 11025, 16000, 22050, 44100, 48000, 96000]


def tones(rate: int, seconds: float, frequencies: tuple[float, ...]) -> NDArray[np.float32]:
    time = np.arange(round(rate * seconds)) / rate
    made: NDArray[np.float32] = sum(
        np.sin(2 * np.pi * f * time + f) / 4 for f in frequencies
    ).astype(np.float32)  # type: ignore[union-attr]
    return made


@pytest.mark.parametrize("rate", RATES)
def test_another_rate_keeps_what_both_can_hold(rate: int) -> None:
    frequencies = (200.0, 1000.0, 0.4 * min(rate, RATE))
    made = mono(Sound(tones(rate, 0.5, frequencies), rate))
    wanted = tones(RATE, 0.5, frequencies)
    assert abs(len(made) - len(wanted)) <= 1
    inner = slice(200, -200)
    assert np.abs(made[: len(wanted)] - wanted[: len(made)])[inner].max() < 5e-3


@pytest.mark.parametrize("rate", [22050, 44100, 48000])
def test_what_16_khz_cannot_hold_does_not_fold_back(rate: int) -> None:
    assert np.abs(mono(Sound(tones(rate, 0.5, (9500.0,)), rate))[200:-200]).max() < 1e-3


def test_a_rate_that_no_fraction_fits_is_right_to_a_sample_in_minutes() -> None:
    made = mono(Sound(np.zeros(44099 * 60, np.float32), 44099))
    assert abs(len(made) - 60 * RATE) <= 1


@settings(max_examples=30)
@given(
    rate=st.sampled_from([*RATES, 44099]),
    channels=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 3000), max_size=6),
)
def test_pieces_give_what_the_whole_gives(rate: int, channels: int, cuts: list[int]) -> None:
    random = np.random.default_rng(rate)
    samples = random.normal(0, 0.1, (3000, channels)).astype(np.float32)
    samples[:1200, 0] = 0
    whole, stream, made = mono(Sound(samples, rate)), Mono(), []
    for start, stop in pairwise([0, *sorted(cuts), len(samples)]):
        made.append(stream.feed(Sound(samples[start:stop], rate)))
        stream = Mono(stream.state())
    np.testing.assert_allclose(np.concatenate([*made, stream.end()]), whole, atol=2e-6)


def test_integers_are_of_full_scale() -> None:
    wanted = np.array([-1, 0, 0.5], np.float32)
    for kind in (np.int16, np.int32):
        full = 2.0 ** (8 * np.dtype(kind).itemsize - 1)
        np.testing.assert_array_equal(mono(Sound((wanted * full).astype(kind), RATE)), wanted)
    np.testing.assert_array_equal(mono(Sound(wanted.astype(np.float64), RATE)), wanted)


def test_a_dead_channel_takes_nothing_away() -> None:
    voice = tones(RATE, 0.1, (300.0,))
    dead = np.stack([np.zeros_like(voice), voice], axis=1)
    np.testing.assert_array_equal(mono(Sound(dead, RATE)), voice)
    late = dead.copy()
    late[800:, 0] = voice[800:] / 2
    wanted = np.concatenate([voice[:801], voice[801:] * 0.75])
    np.testing.assert_allclose(mono(Sound(late, RATE))[802:], wanted[802:], atol=1e-7)


WRONG: list[tuple[Any, str]] = [
    (Sound(np.array([0.0, np.nan, 0.0]), RATE), "got nan at 0.000 s, wanted finite samples"),
    (Sound(np.array([0.0] * 16000 + [np.inf]), RATE), "got inf at 1.000 s"),
    (Sound(np.array([[0, 0], [0, -np.inf]]), RATE), "got -inf at 0.000 s"),
    (Sound(np.array([0.0, -21312.0]), RATE), "got floats up to 21312, .* divide those of 16 bits"),
    (Sound(np.zeros((2, 3, 4)), RATE), r"got samples \(2, 3, 4\)"),
    (Sound(np.zeros(9, np.uint8), RATE), "got samples of uint8, wanted int16, int32 or float"),
    (Sound(np.array(["a"]), RATE), "got an array of <U1, wanted numbers"),
    (Sound(np.zeros(9), 0), "got a rate of 0"),
    (Sound(np.zeros(9), 16000.5), "got a rate of 16000.5"),  # type: ignore[arg-type]
    (Sound(np.zeros(9), True), "got a rate of True"),
]


@pytest.mark.parametrize(("sound", "message"), WRONG)
def test_what_is_no_sound_is_told_in_one_line(sound: Sound, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        mono(sound)
    assert "\n" not in str(caught.value)


def test_pieces_are_of_one_rate_and_number_of_channels() -> None:
    stream = Mono()
    stream.feed(Sound(np.zeros(9), 8000))
    with pytest.raises(InputError, match=r"got 1 channels at 16000 Hz, wanted .* 1 at 8000 Hz"):
        stream.feed(Sound(np.zeros(9), 16000))
    with pytest.raises(InputError, match="got 2 channels"):
        stream.feed(Sound(np.zeros((9, 2)), 8000))


@pytest.mark.parametrize(
    ("name", "tolerance"), [("a.wav", 1e-4), ("a.flac", 1e-4), ("a.ogg", 0.1), ("a.mp3", 0.2)]
)
def test_a_file_is_read_whole_and_in_blocks(tmp_path: Path, name: str, tolerance: float) -> None:
    samples = np.stack([tones(44100, 1, (220.0,)), tones(44100, 1, (440.0,))], axis=1)
    path = tmp_path / name
    soundfile.write(path, samples, 44100)
    sound = read_sound(path)
    assert (sound.rate, sound.samples.shape, sound.seconds) == (44100, (44100, 2), 1.0)
    assert np.abs(sound.samples[2000:-2000] - samples[2000:-2000]).max() < tolerance
    pieces = [piece.samples for piece in blocks(path, 0.3)]
    assert [len(piece) for piece in pieces] == [13230, 13230, 13230, 4410]
    np.testing.assert_array_equal(np.concatenate(pieces), sound.samples)


def test_a_sound_is_a_path_or_samples_and_their_rate(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(80), 8000)
    for signal in (path, str(path), (np.zeros(80), 8000), Sound(np.zeros(80), 8000)):
        assert len(mono(as_sound(signal))) == 160
    with pytest.raises(InputError, match="got list, wanted a path, or samples and their rate"):
        as_sound([0.0, 1.0])


def test_a_file_that_holds_no_sound_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("not a wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    for name in ("a.wav", "empty.wav"):
        with pytest.raises(InputError, match=r"holds no sound .* wanted WAV, FLAC, OGG or MP3$"):
            read_sound(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_sound(tmp_path / "absent.wav")
    with pytest.raises(InputError, match="is a directory, wanted a file"):
        read_sound(tmp_path)
    with pytest.raises(InputError, match="holds no sound"):
        next(blocks(tmp_path / "a.wav"))


def test_a_long_file_is_refused_whole_and_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IFMMIN_INPUT_LIMIT", "1")
    soundfile.write(tmp_path / "a.flac", np.zeros(RATE * 70), RATE)
    with pytest.raises(InputError, match=r"0:01:10 of sound takes 4 MiB.*IFMMIN_INPUT_LIMIT"):
        read_sound(tmp_path / "a.flac")
    assert sum(len(piece.samples) for piece in blocks(tmp_path / "a.flac")) == RATE * 70
