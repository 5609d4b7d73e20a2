"""Voice: a synthetic one, which detectors of speech take for speech; golden vectors hold it.

Harmonics of a pitch that falls and wavers, weighted by the formants of vowels that glide into each
other, four syllables a second, each with a breath of noise before it.
"""

from __future__ import annotations

import numpy as np

from ifmmin.runtime.frontends.sound import RATE, Sound

_VOWELS = np.array([
    (730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410),
], np.float64)  # fmt: skip
"""First three formants in Hz, after Peterson and Barney (1952)."""
_WIDTHS = np.array([80.0, 110.0, 160.0])
_SYLLABLES = 4.0
"""A second."""


def voice(seconds: float, seed: int = 0, level: float = -26.0) -> Sound:
    """Speech-like sound at 16 kHz, int16. level: dB below full scale (mean square)."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    beat = time * _SYLLABLES
    place = np.minimum(beat % 1, 1)
    vowels = _VOWELS[random.integers(len(_VOWELS), size=int(beat[-1]) + 2)]
    stressed = random.uniform(0.5, 1.0, len(vowels))
    index = beat.astype(int)
    glide = np.clip((place - 0.6) / 0.4, 0, 1)[:, None]
    formants = vowels[index] * (1 - glide) + vowels[index + 1] * glide
    loud = stressed[index] * np.sin(np.pi * np.clip((place - 0.12) / 0.8, 0, 1)) ** 0.7
    pitch = 150 * np.exp(-0.15 * time) * (1 + 0.12 * np.sin(2 * np.pi * 0.7 * time) + 0.1 * loud)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    made = np.zeros(len(time))
    for harmonic in range(1, 31):
        frequency = (harmonic * pitch)[:, None]
        peaks = 1 / (1 + ((frequency - formants) / _WIDTHS) ** 2)
        weight = (peaks * [1.0, 0.6, 0.35]).sum(axis=1) / np.sqrt(harmonic)
        made += np.where(frequency[:, 0] < 4000, weight, 0) * np.sin(harmonic * phase)
    breath = np.diff(random.normal(size=len(time) + 1)) * 0.05
    made = made * loud + breath * np.where(place < 0.15, 1.0, 0.05)
    made *= 10 ** (level / 20) / np.sqrt(np.mean(made**2))
    return Sound(np.round(np.clip(made, -1, 1) * 32767).astype(np.int16), RATE)
