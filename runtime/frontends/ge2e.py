"""GE2E: what a recurrent encoder of voices hears in speech, 512 numbers each 100 ms.

Sound becomes one channel at 16 kHz; the frames in which someone speaks are brought to one level;
their mel spectrum goes through the LSTM layers of GE2E (Wan et al. 2018), and the states of ten
frames have one mean. The states tell voices apart: who keeps them, keeps what identifies a speaker.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, InputError
from .base import Features, State, require_state, session
from .sound import RATE, Mono, Sound, as_sound, blocks, mono, parts
from .spec import FrontEndSpec, Read
from .speech import HOP, LONGEST, Detector, Gate, Stretch, utterances

__all__ = ["FRAME", "GROUP", "STEP", "UNITS", "VERSION", "Ge2e", "Rules", "open"]

VERSION = 1
FRAME, STEP, GROUP = 400, 160, 10
"""Samples of a frame and from one to the next; frames that have one mean."""
UNITS = 256
"""Of each layer."""
_MANY = 4
"""Chunks that are run at once."""
_HELD = RATE
"""Samples in memory beyond which frames are cut out of them, though they are too few."""
_MOST_LAYERS = 16
_SILENT = 1e-12
"""A power (mean square) that no gain lifts further."""


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings: how speech is chosen and brought to one level."""

    rate: int = RATE
    """Samples a second."""
    threshold: float = 0.4
    """A hop of 32 ms is speech above this probability."""
    margin: float = 0.1
    """Seconds before and after a hop of speech that are kept."""
    level: float = -30.0
    """To which speech is brought, in dB below full scale (mean square)."""
    level_hops: int = 16
    """Hops of speech after which its level is taken for known; from there on it is followed."""
    layers: tuple[int, ...] = (2, 3)
    """Of the encoder, whose states are the features; the first is 1."""
    chunk: int = 100
    """Frames after which the encoder begins anew."""

    def __post_init__(self) -> None:
        whole = self.chunk % GROUP == 0 and list(self.layers) == sorted(set(self.layers))
        within = (
            self.rate == RATE
            and 0 < self.threshold < 1
            and 0 <= self.margin <= 1
            and -100 <= self.level <= 0
            and 1 <= self.level_hops <= 10_000
            and GROUP <= self.chunk <= 10_000
            and self.layers
            and 1 <= self.layers[0] <= self.layers[-1] <= _MOST_LAYERS
        )
        if not (whole and within):
            raise ValueError(f"settings that no front-end has: {self}")


def open(spec: FrontEndSpec, read: Read, threads: int = 1) -> Ge2e:
    """The front-end of a specification; BundleError where it is not one of this version's."""
    return Ge2e(spec, read, threads)


class Ge2e:
    """The front-end for sound: a path, a Sound, or samples and their rate in Hz."""

    def __init__(self, spec: FrontEndSpec, read: Read, threads: int = 1) -> None:
        if spec.version != VERSION:
            raise BundleError(
                f"front-end ge2e: got version {spec.version}, wanted {VERSION}; this is another "
                "version of ifmmin than the one that made it"
            )
        try:
            self._rules = msgspec.convert(spec.settings, Rules)
            files = spec.files["graph"], spec.files["detector"]
        except (msgspec.ValidationError, KeyError) as error:
            raise BundleError(f"front-end ge2e: its specification is damaged ({error})") from error
        if spec.dim != UNITS * len(self._rules.layers):
            raise BundleError(
                f"front-end ge2e: got dim {spec.dim}, wanted {UNITS} for each of its layers"
            )
        self._spec = spec
        self._encoder, self._detector = (session(read(file), threads) for file in files)
        self._stream = self._begin()

    def describe(self) -> FrontEndSpec:
        """What it is."""
        return self._spec

    def whole(self, signal: Any) -> Features:
        """Features (T, D) at 10 a second of speech; (0, D) where nobody speaks."""
        stream = self._begin()
        return stream.feed(as_sound(signal), last=True)

    def stream(self, signal: Any, *, last: bool = False) -> Features:
        """The frames (N, D) that this piece of sound completed."""
        features = self._stream.feed(as_sound(signal), last=last)
        if last:
            self.reset()
        return features

    def reset(self, state: State | None = None) -> None:
        """Begin anew, or where `state` left off."""
        fresh = self._begin()
        if state is not None:
            fresh.restore(require_state(state, fresh.state()))
        self._stream = fresh

    def state(self) -> State:
        """Of the stream: resampler, detector, samples not used yet, and the encoder's states."""
        return self._stream.state()

    def speech(self, signal: Any) -> NDArray[np.float32]:
        """Probability (N,) that someone speaks in each 32 ms of a sound; its rest is left out."""
        samples = mono(as_sound(signal))
        hops = samples[: len(samples) - len(samples) % HOP].reshape(-1, HOP)
        return Detector(self._detector).feed(hops)

    def utterances(
        self, signal: Sound | str | Path | tuple[Any, int]
    ) -> Iterator[tuple[float, float, Features]]:
        """Start and end in seconds of each utterance of a recording, and its features (T, D).

        A recording of at most twelve seconds is one utterance, from the first speech to the last; a
        longer one is cut at its pauses. Of a file no more is in memory than the utterance that is
        being heard.
        """
        pieces = blocks(signal) if isinstance(signal, (str, Path)) else parts(as_sound(signal))
        first, heard = [], 0.0
        for piece in pieces:
            first.append(piece)
            heard += piece.seconds
            if heard > LONGEST:
                break
        else:
            if first:
                stream, samples = self._begin(), np.concatenate([p.samples for p in first])
                features = stream.feed(Sound(samples, first[0].rate), last=True)
                if len(features):
                    yield *stream.spoken(), features
            return
        detector = Detector(self._detector)
        for start, end, sound in utterances(chain(first, pieces), detector, self._rules.threshold):
            features = self.whole(sound)
            if len(features):
                yield start, end, features

    def _begin(self) -> _Stream:
        return _Stream(self._rules, self._encoder, self._detector)


class _Stream:
    """Sound in pieces -> features, and all that is between."""

    def __init__(self, rules: Rules, encoder: Any, detector: Any) -> None:
        self._rules, self._encoder = rules, encoder
        self._dim = UNITS * len(rules.layers)
        self._mono, self._detector = Mono(), Detector(detector)
        self._gate = Gate(STEP, FRAME // 2, round(rules.margin * RATE), rules.level_hops)
        self._samples: NDArray[np.float32] = np.zeros(0, np.float32)
        self._offset = 0
        """Of the first sample kept, in all."""
        self._kept: list[Stretch] = []
        """Frames chosen whose samples are not all there."""
        self._frames: NDArray[np.float32] = np.zeros((0, FRAME), np.float32)
        """Fewer than ten that wait for others, levelled."""
        self._done = 0
        """Frames that the encoder has taken of this chunk."""
        self._h: NDArray[np.float32] = np.zeros((max(rules.layers), 1, UNITS), np.float32)
        self._c: NDArray[np.float32] = self._h

    def feed(self, sound: Sound, last: bool) -> Features:
        heard = [self._mono.feed(sound), *([self._mono.end()] if last else [])]
        end = self._offset + len(self._samples) + sum(map(len, heard))
        if last:
            heard.append(np.zeros(-end % HOP, np.float32))
        self._samples = np.concatenate([self._samples, *heard])
        fresh = self._samples[self._gate.hops * HOP - self._offset :]
        fresh = fresh[: len(fresh) - len(fresh) % HOP]
        if not len(fresh) and not last:
            return np.zeros((0, self._dim), np.float32)
        hops = fresh.reshape(-1, HOP)
        powers = np.einsum("nk,nk->n", hops, hops, dtype=np.float64) / HOP
        speech = self._detector.feed(hops) > self._rules.threshold
        self._kept += self._gate.feed(speech, powers, last)
        features = self._encode(self._ready(end, last), last)
        self._forget()
        return features

    def spoken(self) -> tuple[float, float]:
        """Seconds of the first speech and of the end of the last."""
        return self._gate.began / RATE, min(self._gate.until, self._mono.given) / RATE

    def _ready(self, end: int, last: bool) -> list[Stretch]:
        """The frames chosen of which all samples are there, once they are enough for a feature."""
        complete = max(0, (end - FRAME) // STEP + 1)
        count = sum(min(s.last, complete) - s.first for s in self._kept if s.first < complete)
        if len(self._frames) + count < GROUP and len(self._samples) < _HELD and not last:
            return []
        ready = [s._replace(last=min(s.last, complete)) for s in self._kept if s.first < complete]
        self._kept = [
            s._replace(first=max(s.first, complete)) for s in self._kept if s.last > complete
        ]
        return ready

    def _encode(self, stretches: list[Stretch], last: bool) -> Features:
        made = [np.zeros((0, self._dim), np.float32)]
        kept, gains = self._levels(stretches)
        most = _MANY * self._rules.chunk
        for at in range(0, len(kept), most):
            now, ending = slice(at, at + most), last and at + most >= len(kept)
            waited = len(self._frames)
            count = waited + len(kept[now])
            # Where nothing follows there is room to fill up the last chunk.
            frames = np.zeros((count + ending * self._rules.chunk, FRAME), np.float32)
            frames[:waited] = self._frames
            self._cut(kept[now], gains[now], frames[waited:count])
            ready = count - count % GROUP
            made += self._chunks(frames, ready, ending)
            self._frames = frames[ready:count].copy()
        return np.concatenate(made)

    def _cut(
        self, kept: NDArray[np.int64], gains: NDArray[np.float32], frames: NDArray[np.float32]
    ) -> None:
        """Fill frames (N, 400) with those of the sound, which is in memory from `_offset` on."""
        windows = np.lib.stride_tricks.sliding_window_view(self._samples, FRAME)
        breaks = np.flatnonzero(np.diff(kept) > 1) + 1
        for start, stop in pairwise([0, *breaks.tolist(), len(kept)]):
            run = windows[kept[start] * STEP - self._offset :: STEP][: stop - start]
            np.multiply(run, gains[start:stop, None], out=frames[start:stop])

    def _levels(self, stretches: list[Stretch]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The frames of stretches, and what each is multiplied by: (N,), (N,)."""
        if not stretches:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        first, last, power = np.array(stretches).T
        counts = (last - first).astype(np.int64)
        before = np.cumsum(counts) - counts
        kept = np.arange(counts.sum()) + np.repeat(first.astype(np.int64) - before, counts)
        gains = 10 ** (self._rules.level / 20) / np.sqrt(np.maximum(power, _SILENT))
        return kept, np.repeat(gains, counts).astype(np.float32)

    def _chunks(self, frames: NDArray[np.float32], count: int, ending: bool) -> Iterator[Features]:
        """Features of the first `count` of frames (N, 400), in tens, which follow on those before.

        ending: nothing follows, and N is larger by a chunk.
        """
        chunk, at = self._rules.chunk, 0
        while at < count:
            rows, size, left = 1, count - at, count - at
            if self._done:
                size = min(left, chunk - self._done)
            elif left >= chunk:
                # Chunks know nothing of each other. Nothing follows on the last: it may be filled,
                # which is faster than to run it alone unless it is short.
                rows, size = left // chunk + (ending and left % chunk > chunk // 3), chunk
            batch = frames[at : at + rows * size].reshape(rows, size, FRAME)
            features, h, c = self._encoder.run(None, {"frames": batch, **self._states(rows)})
            yield features.reshape(-1, self._dim)[: left // GROUP]
            self._done = (self._done + size) % chunk
            self._h, self._c = h[:, -1:], c[:, -1:]
            at += rows * size

    def _states(self, rows: int) -> dict[str, NDArray[np.float32]]:
        if self._done:
            return {"h": self._h, "c": self._c}
        zeros = np.zeros((len(self._h), rows, UNITS), np.float32)
        return {"h": zeros, "c": zeros}

    def _forget(self) -> None:
        """Drop the samples that nothing needs any more."""
        oldest = min([self._gate.oldest(), *(s.first for s in self._kept)]) * STEP
        used = min(oldest, self._gate.hops * HOP) - self._offset
        if used > 0:
            self._samples = self._samples[used:].copy()
            self._offset += used

    def state(self) -> State:
        gate = self._gate
        return {
            **{f"mono_{name}": array for name, array in self._mono.state().items()},
            **{f"detector_{name}": array.copy() for name, array in self._detector.arrays.items()},
            "gate": np.array([gate.hops, gate.began, gate.until, gate.next, gate.speech], np.int64),
            "power": np.array(gate.power),
            "held": np.array(gate.held, np.int64).reshape(-1, 2),
            "kept": np.array(self._kept, np.float64).reshape(-1, 3),
            "offset": np.array(self._offset, np.int64),
            "samples": self._samples.copy(),
            "frames": self._frames.copy(),
            "done": np.array(self._done, np.int64),
            "h": self._h.copy(),
            "c": self._c.copy(),
        }

    def restore(self, state: State) -> None:
        """Go on from what `state` gave of another stream of these rules."""
        names = "counts", "heard", "pending"
        self._mono = Mono({name: state[f"mono_{name}"] for name in names})
        self._detector.arrays = {n: state[f"detector_{n}"] for n in self._detector.arrays}
        gate = self._gate
        gate.hops, gate.began, gate.until, gate.next, gate.speech = state["gate"].tolist()
        gate.power = float(state["power"])
        gate.held = [(first, last) for first, last in state["held"].tolist()]
        self._kept = [Stretch(int(first), int(last), power) for first, last, power in state["kept"]]
        self._offset, self._done = int(state["offset"]), int(state["done"])
        self._samples, self._frames = state["samples"], state["frames"]
        self._h, self._c = state["h"], state["c"]
        frames = [n for pair in [*gate.held, *(s[:2] for s in self._kept)] for n in pair]
        coherent = (
            self._mono.given == self._offset + len(self._samples)
            and 0 <= gate.hops * HOP - self._offset <= len(self._samples)
            and min([gate.oldest(), *frames]) * STEP >= self._offset >= 0
            and sorted(frames) == frames
            and max(frames, default=0) <= gate.next
            and gate.coherent()
            and len(self._frames) < GROUP
            and 0 <= self._done < self._rules.chunk
            and self._done % GROUP == 0
        )
        if not coherent:
            raise InputError("state of a front-end: its parts contradict each other")
