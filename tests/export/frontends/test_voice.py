"""The synthetic voice: what it is, and that the front-end that ships takes it for speech."""

from __future__ import annotations

import numpy as np
import pytest

from ifmmin.export.frontends.voice import voice
from ifmmin.runtime import Bundle, Modality
from ifmmin.runtime.bundle import shipped
from ifmmin.runtime.frontends.base import open_frontend
from ifmmin.runtime.frontends.ge2e import Ge2e
from ifmmin.runtime.frontends.sound import Sound, mono
from ifmmin.runtime.frontends.spec import reader_of


@pytest.fixture(scope="module")
def frontend() -> Ge2e:
    """The front-end for sound of the bundle that ships."""
    if not shipped().is_dir():
        pytest.skip("no bundle is at runtime/models/speech; make model makes it")
    spec = Bundle(shipped()).manifest.modalities[Modality.A].frontend
    assert spec is not None
    opened = open_frontend(spec, reader_of(shipped()))
    assert isinstance(opened, Ge2e)
    return opened


def test_it_is_as_long_and_as_loud_as_asked() -> None:
    for level in (-20.0, -40.0):
        sound = voice(1.5, level=level)
        assert sound.samples.dtype == np.int16
        assert (sound.rate, sound.seconds) == (16000, 1.5)
        loudness = 20 * np.log10(np.sqrt(np.mean(mono(sound) ** 2)))
        assert loudness == pytest.approx(level, abs=0.2)
    np.testing.assert_array_equal(voice(0.5, seed=3).samples, voice(0.5, seed=3).samples)
    assert (voice(0.5, seed=3).samples != voice(0.5, seed=4).samples).any()


@pytest.mark.parametrize("seed", range(3))
def test_it_is_taken_for_speech_and_noise_is_not(frontend: Ge2e, seed: int) -> None:
    sound = voice(2.0, seed=seed)
    assert np.median(frontend.speech(sound)) > 0.9
    assert len(frontend.whole(sound)) >= 18
    noise = np.random.default_rng(seed).normal(0, 0.03, 32000)
    assert frontend.whole((noise, 16000)).shape == (0, 512)
    silence = np.zeros(16000, np.int16)
    pause = Sound(np.concatenate([silence, sound.samples, silence, sound.samples]), 16000)
    [(start, end, _)] = frontend.utterances(pause)
    assert 0.8 < start < 1.2 and 5.8 < end <= 6.0  # noqa: PT018 - one stretch of time


def test_telephone_sound_and_a_dead_channel_say_the_same(frontend: Ge2e) -> None:
    sound = voice(2.0)
    wanted = frontend.whole(sound).mean(axis=0)
    dead = Sound(np.stack([sound.samples, 0 * sound.samples], axis=1), 16000)
    np.testing.assert_allclose(frontend.whole(dead).mean(axis=0), wanted, atol=1e-6)
    time = np.arange(16000) / 8000
    telephone = np.interp(time, np.arange(32000) / 16000, mono(sound))
    found = frontend.whole((telephone, 8000)).mean(axis=0)
    assert found @ wanted > 0.8 * np.linalg.norm(found) * np.linalg.norm(wanted)
