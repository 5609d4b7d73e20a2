"""openSMILE's features: those of the released layout, in pieces, and what is refused."""

from __future__ import annotations

import copy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ifmmin.runtime.errors import BundleError, InputError
from ifmmin.runtime.frontends.base import FrontEnd, open_frontend
from ifmmin.runtime.frontends.opensmile import every_tenth, specify
from ifmmin.runtime.frontends.sound import Sound
from ifmmin.runtime.frontends.spec import FileEntry, FrontEndSpec

needs_opensmile = pytest.mark.skipif(
    find_spec("opensmile") is None, reason="opensmile is not installed: the extra opensmile"
)
RATE = 16_000


def _no_file(entry: FileEntry) -> bytes:
    raise AssertionError(f"it has no {entry.file}")


@pytest.fixture(scope="module")
def frontend() -> FrontEnd:
    return open_frontend(specify(), _no_file)


def _voice(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Pulses at 150 Hz in waves, and noise."""
    rng, times = np.random.default_rng(seed), np.arange(int(seconds * RATE)) / RATE
    pulses = np.sin(2 * np.pi * 150 * times) ** 31 * (1 + np.sin(2 * np.pi * 3 * times))
    made: NDArray[np.float64] = 0.2 * pulses + 0.01 * rng.standard_normal(len(times))
    return made.astype(np.float32)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 99, 250])
def test_every_tenth_is_scipys_polyphase_filter(count: int) -> None:
    signal = pytest.importorskip("scipy.signal")
    frames = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)
    expected = signal.resample_poly(frames, 1, 10, axis=0)
    np.testing.assert_allclose(every_tenth(frames), expected, atol=1e-5)


@needs_opensmile
def test_they_are_those_of_the_released_layout(
    frontend: FrontEnd, composite: dict[str, Path], root: Path
) -> None:
    """Which were made of RAVDESS's 48 kHz, whose last half octave another filter shaped than that
    of the recordings at 16 kHz: up and down again takes most of it off."""
    h5py, signal = pytest.importorskip("h5py"), pytest.importorskip("scipy.signal")
    soundfile = pytest.importorskip("soundfile")
    sound, far, wrong = root.parent / "shared" / "data" / "sound" / "ravdess", [], []
    with h5py.File(composite["features"] / "A" / "comparE.h5") as file:
        for name in list(file)[::80]:
            released = file[name][:]
            samples, rate = soundfile.read(sound / f"{name}.flac", dtype="float32")
            samples = signal.resample_poly(signal.resample_poly(samples, 3, 1), 1, 3)
            made = frontend.whole(Sound(samples, rate))
            assert made.shape == released.shape
            spread = released.std(axis=0) + 1e-9
            far.append(np.median((made - released).std(axis=0) / spread))
            wrong.append(np.median((np.roll(made, 1, axis=0) - released).std(axis=0) / spread))
    assert np.median(far) < 0.1
    assert min(wrong) > 0.5  # a frame later they would be others


@needs_opensmile
@pytest.mark.parametrize("rate", [RATE, 24_000])
def test_pieces_give_what_the_whole_does(frontend: FrontEnd, rate: int) -> None:
    samples = _voice(1.95)[: int(1.3 * rate)]
    whole = frontend.whole(Sound(samples, rate))
    assert whole.shape == (13, 130)
    assert np.isfinite(whole).all()
    pieces = np.split(samples, [1, 5000, 5001, 12000])
    made = [frontend.stream(Sound(piece, rate)) for piece in pieces[:3]]
    state = frontend.state()
    other = copy.copy(frontend)
    other.reset(state)
    frontend.reset()
    made += [other.stream(Sound(pieces[3], rate)), other.stream(Sound(pieces[4], rate), last=True)]
    assert [len(frames) for frames in made] == [0, 0, 0, 0, 13]
    np.testing.assert_array_equal(made[-1], whole)
    # What followed is a stream of its own.
    np.testing.assert_array_equal(other.stream((samples, rate), last=True), whole)


@needs_opensmile
def test_other_rates_and_channels_become_one_at_16_khz(frontend: FrontEnd) -> None:
    samples = _voice(1.0)
    stereo = np.stack([samples, samples], axis=1)
    whole = frontend.whole((samples, RATE))
    np.testing.assert_allclose(frontend.whole((stereo, RATE)), whole, rtol=1e-5, atol=1e-5)
    assert frontend.whole((np.repeat(samples, 3), 3 * RATE)).shape == whole.shape


@needs_opensmile
@pytest.mark.parametrize("count", [0, 3, 959])
def test_too_short_a_sound_has_no_frames(frontend: FrontEnd, count: int) -> None:
    assert frontend.whole((np.zeros(count, np.float32), RATE)).shape == (0, 130)


@needs_opensmile
def test_silence_is_finite(frontend: FrontEnd) -> None:
    frames = frontend.whole((np.zeros(RATE, np.float32), RATE))
    assert frames.shape == (10, 130)
    assert np.isfinite(frames).all()


@needs_opensmile
def test_too_much_sound_is_refused_and_the_stream_as_before(
    frontend: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IFMMIN_INPUT_LIMIT", "1")
    stream, samples, rate = copy.copy(frontend), _voice(15), 24_000
    stream.reset()
    stream.stream((samples, rate))
    with pytest.raises(InputError, match="more than the 1 MiB allowed"):
        stream.stream((samples[1000:], rate))
    made = stream.stream((samples[:1000], rate), last=True)
    whole = frontend.whole((np.concatenate([samples, samples[:1000]]), rate))
    np.testing.assert_array_equal(made, whole)


@needs_opensmile
@pytest.mark.parametrize(
    "change", [{"samples": np.zeros(3)}, {"counts": np.zeros(2, np.int64)}, {"more": np.zeros(1)}]
)
def test_a_state_of_another_is_refused(frontend: FrontEnd, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="state of a front-end"):
        frontend.reset(frontend.state() | change)


def test_a_specification_of_another_is_refused() -> None:
    other = FrontEndSpec(kind="opensmile", version=1, dim=25, frame_rate=10.0, features="")
    with pytest.raises(BundleError, match=r"has opensmile-1-.* alone"):
        open_frontend(other, _no_file)


def test_its_licence_is_told_once_and_where_it_is_absent() -> None:
    script = (
        "import sys\n"
        "if 'absent' in sys.argv: sys.modules['opensmile'] = None\n"
        "from ifmmin.runtime.frontends.base import open_frontend\n"
        "from ifmmin.runtime.frontends.opensmile import specify\n"
        "try: frontends = [open_frontend(specify(), None) for _ in range(2)]\n"
        "except Exception as error: print(type(error).__name__, error, file=sys.stderr)\n"
    )
    absent = subprocess.run(
        [sys.executable, "-c", script, "absent"], capture_output=True, text=True
    )
    assert absent.stderr.startswith("InputError features of openSMILE need it")
    assert "research and educational use only" in absent.stderr
    if find_spec("opensmile") is not None:
        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert told.stderr.count("research and educational use only") == 1
