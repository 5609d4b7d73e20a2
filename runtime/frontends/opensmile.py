"""openSMILE features: 130 numbers of ComParE 2016, 10 times a second (Schuller et al. 2016).

Those that IF-MMIN's released features hold: 65 low-level descriptors and their deltas, made by
openSMILE 100 times a second and low-passed to every tenth. The descriptors of a recording depend on
all of it (pitch is traced through it), so a stream has its frames at the last piece.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, InputError
from ..files import require_size
from .base import Features, State, require_state
from .sound import RATE, Mono, as_sound, mono
from .spec import FrontEndSpec, Read

LICENCE = "audEERING Research License: private, research and educational use only"
_LOG = logging.getLogger("ifmmin.opensmile")
_DIM = 130
_DOWN = 10
"""Frames of openSMILE in one of the features."""
_SHORTEST = 960
"""Samples of openSMILE's longest window: of less it makes nothing."""


def specify() -> FrontEndSpec:
    """The specification of this front-end."""
    return FrontEndSpec(
        kind="opensmile",
        version=1,
        dim=_DIM,
        frame_rate=100 / _DOWN,
        features="openSMILE ComParE_2016: 65 low-level descriptors and their deltas",
        settings={"rate": RATE, "set": "ComParE_2016", "down": _DOWN},
        licence=LICENCE,
    )


def open(spec: FrontEndSpec, read: Read, threads: int = 1) -> OpenSmile:
    """The front-end of a specification, which has no files; its licence is told once a process.

    Raises BundleError for one of other make, InputError where openSMILE is not installed.
    """
    if spec.identity != specify().identity:
        raise BundleError(
            f"front-end {spec.identity}: this version of ifmmin has {specify().identity} alone"
        )
    _smile()
    return OpenSmile(spec)


class OpenSmile:
    """ComParE 2016 descriptors of a sound, by the package opensmile."""

    _mono: Mono
    _pieces: list[NDArray[np.float32]]
    _count: int

    def __init__(self, spec: FrontEndSpec) -> None:
        self._spec = spec
        self.reset()

    def describe(self) -> FrontEndSpec:
        """What it is."""
        return self._spec

    def whole(self, signal: Any) -> Features:
        """Features (T, 130) of a Sound, samples and rate, or a file; none of less than 60 ms."""
        return _features(mono(as_sound(signal)))

    def stream(self, signal: Any, *, last: bool = False) -> Features:
        """All frames (T, 130) of the pieces at the `last` one, none before.

        Raises InputError where a piece does not fit those before, and where they take too much
        memory together; the front-end is then as it was.
        """
        before = self._mono.state()
        piece = self._mono.feed(as_sound(signal))
        try:
            require_size((self._count + len(piece)) * 4, "sound without an end", InputError)
        except InputError:
            self._mono = Mono(before)
            raise
        self._pieces.append(piece)
        self._count += len(piece)
        if not last:
            return np.zeros((0, self._spec.dim), np.float32)
        samples = np.concatenate([*self._pieces, self._mono.end()])
        self.reset()
        return _features(samples)

    def reset(self, state: State | None = None) -> None:
        """Begin anew, or where `state` left off."""
        if state is None:
            self._mono, self._pieces, self._count = Mono(), [], 0
            return
        kept = require_state(state, {"samples": np.zeros(0, np.float32), **Mono().state()})
        samples = kept.pop("samples")
        self._mono, self._pieces, self._count = Mono(kept), [samples], len(samples)

    def state(self) -> State:
        """What `reset` goes on from: all of the sound."""
        samples = np.concatenate([np.zeros(0, np.float32), *self._pieces])
        return {"samples": samples, **self._mono.state()}


@cache
def _smile() -> Any:
    """openSMILE for the descriptors and their deltas."""
    try:
        opensmile = import_module("opensmile")  # slow to import
    except (ImportError, OSError) as error:
        raise InputError(
            f"features of openSMILE need it ({error}); pip install 'ifmmin[opensmile]', under the "
            f"{LICENCE}"
        ) from error
    _LOG.warning("features by openSMILE, under the %s", LICENCE)
    # Both levels at once, for half the time of one after the other.
    return opensmile.Smile(
        feature_set=opensmile.FeatureSet.ComParE_2016, feature_level="lld;lld_de"
    )


def _features(samples: NDArray[np.float32]) -> Features:
    """Samples (N,) at 16 kHz -> (T, 130)."""
    if len(samples) < _SHORTEST:
        return np.zeros((0, _DIM), np.float32)
    return every_tenth(_smile().process_signal(samples, RATE).to_numpy())


def every_tenth(frames: NDArray[np.float32]) -> Features:
    """Frames (T, D) low-passed to a tenth of their rate, (ceil(T / 10), D).

    The polyphase filter of the released features: 201 taps of a sinc at a twentieth of the rate
    under a Kaiser window of 5, nothing beyond the ends; `scipy.signal.resample_poly(x, 1, 10)`.
    """
    half, count = 10 * _DOWN, -(-len(frames) // _DOWN)
    taps = np.sinc(np.arange(-half, half + 1) / _DOWN) * np.kaiser(2 * half + 1, 5.0)
    padded = np.pad(frames, ((half, half), (0, 0)))
    made = np.zeros((count, frames.shape[1]))
    for place, tap in enumerate(taps / taps.sum()):
        made += tap * padded[place::_DOWN][:count]
    return made.astype(np.float32)
