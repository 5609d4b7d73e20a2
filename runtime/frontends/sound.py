"""Sound: samples and their rate, read from files, as one channel of 16 kHz, whole or in pieces.

What is made of pieces equals what is made of the whole, however it was cut.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, one_line
from ..files import open_regular, require_size
from ..process import unforked
from ..validate import as_numbers

__all__ = [
    "RATE",
    "Mono",
    "Sound",
    "as_sound",
    "blocks",
    "cut",
    "duration",
    "mono",
    "parts",
    "read_sound",
]

RATE = 16_000
"""Samples a second that every front-end for sound takes."""
LOWEST, HIGHEST = 4_000, 384_000
_LOUDEST = 64.0
"""Of floats: what has been amplified may pass full scale, what passes it by far is of integers."""
_FORMATS = "WAV, FLAC, OGG or MP3"


@dataclass(frozen=True, eq=False)
class Sound:
    """Samples (N,) or (N, C) of C channels, as integers of full scale or floats from -1 to 1.

    rate: samples a second of each channel, in Hz.
    """

    samples: NDArray[Any]
    rate: int

    @property
    def seconds(self) -> float:
        """Its duration. InputError where the rate is none."""
        if not _is_whole(self.rate) or self.rate <= 0:
            raise _no_rate(self.rate)
        return len(self.samples) / self.rate


def as_sound(signal: Any) -> Sound:
    """A Sound as it is, samples and rate as a pair, or a file by its path."""
    if isinstance(signal, Sound):
        return signal
    if isinstance(signal, (str, Path)):
        return read_sound(signal)
    if isinstance(signal, tuple) and len(signal) == 2:
        samples = as_numbers(signal[0], "sound")
        _check_shape(samples)
        return Sound(samples, signal[1])
    raise InputError(
        f"sound: got {type(signal).__name__}, wanted a path, or samples and their rate in Hz"
    )


def read_sound(path: str | Path) -> Sound:
    """A file's sound, float32 (N,) or (N, C). InputError where it is none or too large."""
    with _opened(path) as file:
        size = file.frames * file.channels * 4
        require_size(size, f"{path}: {_clock(file.frames / file.samplerate)} of sound", InputError)
        return Sound(_read(file, file.frames, path), file.samplerate)


def cut(signal: Any, start: float, end: float) -> Sound:
    """What lies between two times, in seconds, of a sound as `as_sound` takes it."""
    if isinstance(signal, (str, Path)):
        with _opened(signal, most=1 << 62) as file:
            file.seek(min(file.frames, int(start * file.samplerate)))
            count = math.ceil((end - start) * file.samplerate)
            return Sound(_read(file, count, signal), file.samplerate)
    sound = as_sound(signal)
    first, last = (round(seconds * sound.rate) for seconds in (start, end))
    return Sound(sound.samples[first:last], sound.rate)


def duration(path: str | Path) -> float:
    """Seconds of sound in a file."""
    with _opened(path, most=1 << 62) as file:
        return float(file.frames / file.samplerate)


def blocks(path: str | Path, seconds: float = 1.0) -> Iterator[Sound]:
    """A file's sound in pieces, however long it is; those of `read_sound` one after the other."""
    with _opened(path, most=1 << 62) as file:
        count = max(1, int(seconds * file.samplerate))
        while len(samples := _read(file, count, path)):
            yield Sound(samples, file.samplerate)


def parts(sound: Sound, seconds: float = 1.0) -> Iterator[Sound]:
    """A sound in pieces, as `blocks` gives those of a file."""
    count = max(1, int(seconds * _check_rate(sound.rate)))
    for at in range(0, len(sound.samples), count):
        yield Sound(sound.samples[at : at + count], sound.rate)


@contextmanager
def _opened(path: str | Path, most: int | None = None) -> Iterator[Any]:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # the module, or the library that it is for
        raise InputError(
            f"{path}: reading files of sound needs soundfile ({one_line(error)}); pip install "
            "soundfile, or give samples and their rate"
        ) from error
    try:
        content = open_regular(Path(path), InputError, most)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}") from error
    with content:
        try:
            # soundfile opens under a lock of its own.
            with unforked(silent=_is_mpeg(content.fileno())):
                file = soundfile.SoundFile(content.fileno(), closefd=False)
        # A library written in C reads whatever the file holds: any of its complaints.
        except (soundfile.SoundFileError, TypeError, ValueError) as error:
            raise InputError(_no_sound(path, error)) from error
        with file:
            # Else each read ends in a seek, after which the decoder of an MP3 begins anew.
            file.seekable = lambda: False
            yield file


_MPEG = "MP3"
"""Format whose decoder tells standard error what it thinks of a file."""


def _is_mpeg(descriptor: int) -> bool:
    """By the first bytes of a file, which is left at its beginning."""
    begins = os.read(descriptor, 3)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return begins == b"ID3" or (len(begins) > 1 and begins[0] == 0xFF and begins[1] >= 0xE0)


def _read(file: Any, count: int, path: str | Path) -> NDArray[np.float32]:
    import soundfile

    try:
        with unforked(silent=True) if file.format == _MPEG else nullcontext():
            samples: NDArray[np.float32] = file.read(count, dtype="float32")
    except (soundfile.SoundFileError, ValueError) as error:
        raise InputError(_no_sound(path, error)) from error
    return samples


_NO_FILE = 7
"""libsndfile's code of an MP3 in which it finds no frame, in the words "no regular file"."""


def _no_sound(path: str | Path, error: Exception) -> str:
    reason = one_line(error).rpartition(": ")[2].rstrip(".")
    if getattr(error, "code", None) == _NO_FILE:
        reason = "it cannot be decoded"
    return f"{path} holds no sound that can be read ({reason}); wanted {_FORMATS}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def mono(sound: Sound) -> NDArray[np.float32]:
    """A sound's (N,) float32 samples of one channel at 16 kHz. InputError where it is unusable."""
    stream = Mono()
    return np.concatenate([stream.feed(sound), stream.end()])


class Mono:
    """Sound in pieces of one rate -> one channel at 16 kHz.

    Channels are averaged; one that has been digitally silent so far does not count.
    """

    def __init__(self, state: Mapping[str, NDArray[Any]] | None = None) -> None:
        """state: what `state` gave, to go on from there."""
        self._rate = 0
        self._heard: NDArray[np.bool_] = np.zeros(0, bool)
        self._pending: NDArray[np.float32] = np.zeros(0, np.float32)
        self._taken = 0
        self.given = 0
        """Samples at 16 kHz so far."""
        self._filter: _Filter | None = None
        if state is not None:
            self._rate, self._taken, self.given = (int(n) for n in state["counts"])
            self._heard, self._pending = state["heard"].copy(), state["pending"].copy()
            if self._rate:
                self._filter = _filter(_check_rate(self._rate))
            counts = self._taken, self.given
            if (
                bool(self._rate) != bool(len(self._heard))
                or not 0 <= min(counts) <= max(counts) < 1 << 53
            ):
                raise InputError("sound: this state is of no stream")

    def state(self) -> dict[str, NDArray[Any]]:
        """Where it stands: `counts` (3,), `heard` (C,), `pending` (n,)."""
        counts = np.array([self._rate, self._taken, self.given], np.int64)
        return {"counts": counts, "heard": self._heard.copy(), "pending": self._pending.copy()}

    def feed(self, sound: Sound) -> NDArray[np.float32]:
        """The samples that this piece completes. InputError where it does not fit the others."""
        samples = _checked(sound, self._taken)
        if not self._rate:
            self._rate, self._heard = sound.rate, np.zeros(samples.shape[1], bool)
            self._filter = _filter(sound.rate)
            self._pending = np.zeros(self._filter.half if self._filter else 0, np.float32)
        if (sound.rate, samples.shape[1]) != (self._rate, len(self._heard)):
            raise InputError(
                f"sound: got {samples.shape[1]} channels at {sound.rate} Hz, wanted pieces as the "
                f"first: {len(self._heard)} at {self._rate} Hz"
            )
        values = self._averaged(samples)
        self._taken += len(values)
        return self._resampled(values, None)

    def end(self) -> NDArray[np.float32]:
        """The last samples, once no more pieces come."""
        if self._filter is None:
            return np.zeros(0, np.float32)
        wanted = -(-self._taken * self._filter.up // self._filter.down) - self.given
        padding = np.zeros(self._filter.width + self._filter.step, np.float32)
        return self._resampled(padding, wanted)

    def _averaged(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        if samples.shape[1] == 1 or not len(samples):
            return samples[:, 0]
        sounding = samples != 0
        first = np.where(sounding.any(0), sounding.argmax(0), len(samples))
        first[self._heard] = 0
        self._heard = first < len(samples)
        averaged = np.zeros(len(samples), np.float32)
        changes = np.unique(first)
        for start, stop in zip(changes, [*changes[1:], len(samples)], strict=True):
            averaged[start:stop] = samples[start:stop, first <= start].mean(axis=1)
        return averaged

    def _resampled(self, values: NDArray[np.float32], wanted: int | None) -> NDArray[np.float32]:
        if self._filter is None:
            self.given += len(values)
            return values
        self._pending = np.concatenate([self._pending, values])
        made, used = self._filter.apply(self._pending)
        self._pending = self._pending[used:].copy()
        made = made[:wanted]
        self.given += len(made)
        return made


def _check_rate(rate: Any) -> int:
    if not _is_whole(rate) or not LOWEST <= rate <= HIGHEST:
        raise _no_rate(rate)
    return int(rate)


def _is_whole(rate: Any) -> bool:
    return isinstance(rate, (int, np.integer)) and not isinstance(rate, bool)


def _no_rate(rate: Any) -> InputError:
    return InputError(
        f"sound: got a rate of {rate!r}, wanted a whole number of Hz, {LOWEST} to {HIGHEST}"
    )


def _check_shape(samples: NDArray[Any]) -> None:
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[1] <= 64):
        raise InputError(
            f"sound: got samples {samples.shape}, wanted (N,) or (N, C) of 1 to 64 channels"
        )


def _checked(sound: Sound, before: int) -> NDArray[np.float32]:
    """Samples (N, C) from -1 to 1, whatever they were, of which so many came `before`."""
    _check_rate(sound.rate)
    samples = as_numbers(sound.samples, "sound")
    _check_shape(samples)
    if samples.ndim == 1:
        samples = samples[:, None]
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):
            made = np.ascontiguousarray(samples, np.float32)
        # Of a NaN neither holds.
        if made.size and not (made.max() <= _LOUDEST and made.min() >= -_LOUDEST):
            raise _no_samples(made, before, sound.rate)
        return made
    if samples.dtype not in (np.int16, np.int32):
        raise InputError(f"sound: got samples of {samples.dtype}, wanted int16, int32 or float")
    return samples.astype(np.float32) * np.float32(2.0 ** (1 - 8 * samples.dtype.itemsize))


def _no_samples(samples: NDArray[np.float32], before: int, rate: int) -> InputError:
    wrong = np.argwhere(~np.isfinite(samples))
    if len(wrong):
        at, channel = wrong[0]
        return InputError(
            f"sound: got {samples[at, channel]} at {(before + at) / rate:.3f} s, wanted finite "
            "samples"
        )
    return InputError(
        f"sound: got floats up to {np.abs(samples).max():g}, wanted them from -1 to 1; divide "
        "those of 16 bits by 32768, or give them as int16"
    )


_CROSSINGS = 16
"""Zero crossings of the sinc on each side."""
_ROLLOFF = 0.94
"""Where the low-pass stands, of the lower rate's half."""
_KAISER = 8.0
_GROUP = 16
"""Outputs of one product."""
_PRODUCTS = 1 << 18
"""Multiplications of one product: for more OpenBLAS starts threads of its own."""
_MOST_PHASES = 640
"""For an odd rate the nearest ratio with at most so many is taken, right to a millionth."""


class _Filter:
    """A windowed sinc in groups of outputs, each the product of a stretch of input and a matrix."""

    def __init__(self, rate: int) -> None:
        ratio = Fraction(rate, RATE).limit_denominator(_MOST_PHASES)
        self.down, self.up = ratio.numerator, ratio.denominator
        repeats = -(-_GROUP // self.up)
        outputs, self.step = self.up * repeats, self.down * repeats
        narrow = min(1.0, 1 / float(ratio))
        cutoff, reach = narrow * _ROLLOFF, _CROSSINGS / narrow
        self.half = int(np.ceil(reach))
        self.groups: list[tuple[int, NDArray[np.float32]]] = []
        for first in range(0, outputs, _GROUP):
            # In input samples; the output at time t stands at t + half of a window.
            times = np.arange(first, min(first + _GROUP, outputs)) * float(ratio)
            start = int(times[0])
            places = np.arange(start, int(times[-1]) + 2 * self.half + 1)
            distance = places[:, None] - self.half - times
            window = np.i0(_KAISER * np.sqrt(np.maximum(0, 1 - (distance / reach) ** 2)))
            kernel = cutoff * np.sinc(cutoff * distance) * window / np.i0(_KAISER)
            kernel[abs(distance) > reach] = 0
            self.groups.append((start, (kernel / kernel.sum(0)).astype(np.float32)))
        self.width = max(start + len(matrix) for start, matrix in self.groups)

    def apply(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
        """Outputs of all complete blocks of `values`, and how many samples are done with."""
        count = max(0, (len(values) - self.width) // self.step + 1)
        parts = []
        for start, matrix in self.groups:
            windows = np.lib.stride_tricks.as_strided(
                values[start:],
                (count, len(matrix)),
                (self.step * values.itemsize, values.itemsize),
                writeable=False,
            )
            rows = max(1, _PRODUCTS // matrix.size)
            parts.append(
                np.concatenate(
                    [windows[i : i + rows].copy() @ matrix for i in range(0, count, rows)]
                    or [np.zeros((0, matrix.shape[1]), np.float32)]
                )
            )
        return np.concatenate(parts, axis=1).reshape(-1), count * self.step


@lru_cache(maxsize=8)
def _filter(rate: int) -> _Filter | None:
    """The filter of a rate, made once; None where there is nothing to do."""
    return None if rate == RATE else _Filter(rate)
