"""Windows of a stream: hops of frames, and encoder states per start of a window."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..bundle import GraphEntry, StateSpec
from ..errors import InputError
from ..modality import Modality
from ..validate import pad_frames
from .graphs import EncoderGraphs, initial_states


class Batch(NamedTuple):
    """Joined (1, ...) side by side."""

    each: Sequence[NDArray[np.float32]]
    whole: NDArray[np.float32]
    """(B, ...)"""

    @classmethod
    def split(cls, whole: NDArray[np.float32]) -> Batch:
        """Of an array (B, ...), whose rows its parts are."""
        return cls([whole] if len(whole) == 1 else list(whole[:, None]), whole)

    @classmethod
    def join(cls, rows: Sequence[NDArray[np.float32]]) -> Batch:
        """Of some rows."""
        return cls(rows, rows[0] if len(rows) == 1 else np.concatenate(rows))

    def has(self, rows: Sequence[NDArray[np.float32]]) -> bool:
        """Whether it is made of these very rows."""
        return same(rows, self.each)


def same(these: Sequence[object], those: Sequence[object]) -> bool:
    """Whether they are the very same things in the same order."""
    return len(these) == len(those) and all(map(is_, these, those))


def own(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy of what is part of a larger array, and so would keep all of it; else the array."""
    return array.copy() if isinstance(array.base, np.ndarray) else array


_CLOSE = 1e-6
"""A time that close to a hop's end, in hops, lies behind it: sums of floats fall short."""
_ROUNDING = 4 * float(np.finfo(np.float64).eps)
"""What a time and its distance from the origin may be wrong by, as a share of their size: seconds
since 1970 are 2e-7 apart."""


class Segment(NamedTuple):
    """Frames of one hop."""

    hop: int
    """The one that begins at hop times seconds; 0 where time is not divided."""
    frames: NDArray[np.float32]
    """(N, D)"""


class HopClock:
    """The hops of one modality. hop: seconds; None where time is not divided.

    rate: frames a second; None where frames have no fixed rate, such as words.
    """

    def __init__(self, modality: Modality, hop: float | None, rate: float | None) -> None:
        self._modality = modality
        self._hop = hop
        self._rate = rate
        self.origin = 0.0
        """The time at which hop 0 begins, for frames that come with times."""

    def cut(
        self,
        frames: NDArray[np.float32],
        before: int,
        at: float | None,
        reached: int | None,
        kept: NDArray[np.intp] | None = None,
    ) -> list[Segment]:
        """New frames (N, D), at least one, cut where hops end; where time is divided.

        before: frames that came earlier. at: time of the newest one; without it time is counted in
        frames. reached: the hop of the newest one so far, to which what is older belongs, too; None
        before the first. kept: (N,), which they are of all frames that came now; None: all.
        """
        numbers = before + (np.arange(len(frames)) if kept is None else kept)
        hops = np.maximum.accumulate(self._hops(numbers, at))
        if reached is not None:
            hops = np.maximum(hops, reached)
        ends = [*(np.flatnonzero(np.diff(hops)) + 1), len(frames)]
        starts = [0, *ends[:-1]]
        return [Segment(int(hops[s]), frames[s:e]) for s, e in zip(starts, ends, strict=True)]

    def hop_at(self, now: float) -> int:
        """The hop of a moment; 0 where time is not divided."""
        if self._hop is None:
            return 0
        since = np.float64(now - self.origin)
        return int(_hop(since, rounding(now, self.origin), self._hop))

    def hop_of(self, number: int) -> int | None:
        """The hop of a frame by its number from 0; None where that says nothing of its time."""
        if self._hop is None or self._rate is None:
            return None
        return int(_hop(np.float64(number / self._rate), 0.0, self._hop))

    def ahead(self, at: float | None, frames: int) -> float | None:
        """The time of what came so many frames ahead of a moment."""
        return at if at is None or self._rate is None else at - frames / self._rate

    def _hops(self, numbers: NDArray[np.intp], at: float | None) -> NDArray[np.int64]:
        assert self._hop is not None
        if at is not None:
            back = (numbers[-1] - numbers) / self._rate if self._rate else np.zeros(len(numbers))
            since = at - self.origin - back
            return _hop(since, rounding(at, self.origin), self._hop).astype(np.int64)
        if self._rate is not None:
            return _hop(numbers / self._rate, 0.0, self._hop).astype(np.int64)
        raise InputError(
            f"modality {self._modality} has no frame rate, and a window needs "
            "times; push it with at=SECONDS, or replace it as a whole with set_text"
        )


def rounding(one: float, other: float) -> float:
    """What the distance of two times may be wrong by, in seconds."""
    return _ROUNDING * (abs(one) + abs(other))


def _hop(since: NDArray[np.float64] | np.float64, wrong: float, hop: float) -> NDArray[np.float64]:
    """The hop of seconds since the origin, and what they may be wrong by."""
    return np.asarray(np.floor((since + wrong + _ROUNDING * np.abs(since)) / hop + _CLOSE))


States = tuple[NDArray[np.float32], ...]
"""Of a step graph, each (1, ...)."""


class EncoderState(NamedTuple):
    """A beginning and what came since. Never changed: moving on gives a new one."""

    begun: int = 0
    """The hop in which it began; without a window 0."""
    frames: int = 0
    """Frames since."""
    early: NDArray[np.float32] | None = None
    """(n, D) while they are fewer than the step graph can begin with."""
    kept: States | None = None
    """None before the step graph was called first."""
    pooled: NDArray[np.float32] | None = None
    """(1, P) of all frames since, padded to the minimum where they are fewer."""

    def owned(self) -> EncoderState:
        """With arrays of its own."""
        kept = None if self.kept is None else tuple([own(state) for state in self.kept])
        pooled = None if self.pooled is None else own(self.pooled)
        return EncoderState(self.begun, self.frames, self.early, kept, pooled)


class StepRunner:
    """The step graph of a modality, moving encoder states on.

    minimum: frames that its first call needs; fewer are padded with zeros, as for an utterance.
    """

    def __init__(self, graphs: EncoderGraphs, minimum: int) -> None:
        entry: GraphEntry = graphs.step.entry
        self._run = graphs.step.run
        self._minimum = minimum
        self.states: tuple[StateSpec, ...] = entry.states
        self._names = [state.name for state in entry.states]
        self._frame_size = next(spec.shape[-1] for spec in entry.inputs if spec.name == "frames")
        shapes = {spec.name: spec.shape for spec in entry.outputs}
        self._shapes = [shapes["pooled"], *(shapes[state.output] for state in entry.states)]
        outputs = [spec.name for spec in entry.outputs]
        self._pooled = outputs.index("pooled")
        self._next = [outputs.index(state.output) for state in entry.states]
        self._kept = sorted({self._pooled, *self._next})
        """A maximum is both."""
        self._start = tuple(initial_states(entry).values())
        self._last: tuple[Sequence[States], Sequence[NDArray[np.float32]]] = (), ()
        """States after the last call of many encoder states, apart and side by side."""

    def require(self, encoder: EncoderState) -> None:
        """ValueError unless the graph can go on from an encoder state that somebody handed in."""
        early, kept = encoder.early, encoder.kept
        if (early is None) == (kept is None):
            raise ValueError("wanted either early frames or what the graph keeps")
        arrays = [encoder.pooled, *(kept or ())]
        wanted = self._shapes if kept is not None else self._shapes[:1]
        if early is not None:
            count = len(early) if early.ndim else 0
            arrays.append(early)
            wanted = [*wanted, (count, self._frame_size)]
            if not 1 <= count < self._minimum:
                raise ValueError(f"{count} early frames, wanted 1 to {self._minimum - 1}")
        for array, shape in zip(arrays, wanted, strict=True):
            sizes = tuple(1 if size == "B" else size for size in shape)
            if array is None or array.dtype != np.float32 or array.shape != sizes:
                raise ValueError(f"an array is not float32 {sizes}")
            if not np.isfinite(array).all():
                raise ValueError("an array is not finite")

    def advance(
        self, encoders: Sequence[EncoderState], chunks: Sequence[NDArray[np.float32]]
    ) -> list[EncoderState]:
        """Each state with its own new frames (N, D), N at least 1. Those that can, run together."""
        if len(encoders) == 1 and encoders[0].kept is not None:
            return [self.one(encoders[0], chunks[0])]
        on_their_way = [encoder.kept for encoder in encoders if encoder.kept is not None]
        if len(on_their_way) == len(encoders) and len({len(chunk) for chunk in chunks}) == 1:
            count = len(chunks[0])
            return [
                EncoderState(encoder.begun, encoder.frames + count, None, states, pooled)
                for encoder, (pooled, states) in zip(
                    encoders, self._call(chunks, on_their_way), strict=True
                )
            ]
        calls = [
            (chunk, None) if encoder.kept is not None else self._prepare(encoder, chunk)
            for encoder, chunk in zip(encoders, chunks, strict=True)
        ]
        groups: dict[tuple[int, bool], list[int]] = {}
        for index, (given, _) in enumerate(calls):
            groups.setdefault((len(given), encoders[index].kept is None), []).append(index)
        moved: list[EncoderState] = list(encoders)
        for rows in groups.values():
            kept = [encoders[i].kept or self._start for i in rows]
            outputs = self._call([calls[i][0] for i in rows], kept)
            for i, (pooled, states) in zip(rows, outputs, strict=True):
                encoder, early = encoders[i], calls[i][1]
                frames = encoder.frames + len(chunks[i])
                states_now = None if early is not None else states
                moved[i] = EncoderState(encoder.begun, frames, early, states_now, pooled)
        return moved

    def one(self, encoder: EncoderState, chunk: NDArray[np.float32]) -> EncoderState:
        """What `advance` does, for an encoder state with frames: the path that has to be short."""
        assert encoder.kept is not None
        inputs = dict(zip(self._names, encoder.kept, strict=True))
        inputs["frames"] = chunk[None]
        outputs = self._run(inputs)
        states = tuple([outputs[i] for i in self._next])
        return EncoderState(
            encoder.begun, encoder.frames + len(chunk), None, states, outputs[self._pooled]
        )

    def _prepare(
        self, encoder: EncoderState, chunk: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """What the graph is given first, and the frames to keep where it cannot begin yet."""
        heard = chunk if encoder.early is None else np.concatenate((encoder.early, chunk))
        if len(heard) < self._minimum:
            return pad_frames(heard, self._minimum), heard.copy()
        return heard, None

    def _call(
        self, chunks: Sequence[NDArray[np.float32]], kept: Sequence[States]
    ) -> list[tuple[NDArray[np.float32], States]]:
        """Chunks (N, D) of one length with their states -> what is pooled, the next states."""
        if len(chunks) == 1:
            outputs = self._run(
                {"frames": chunks[0][None], **dict(zip(self._names, kept[0], strict=True))}
            )
            return [(outputs[self._pooled], tuple(outputs[i] for i in self._next))]
        inputs = dict(zip(self._names, self._side_by_side(kept), strict=True))
        frames = np.concatenate(chunks).reshape(len(chunks), *chunks[0].shape)
        outputs = self._run({"frames": frames, **inputs})
        rows = {i: list(outputs[i][:, None]) for i in self._kept}
        states = list(zip(*(rows[i] for i in self._next), strict=True))
        self._last = states, [outputs[i] for i in self._next]
        return list(zip(rows[self._pooled], states, strict=True))

    def _side_by_side(self, kept: Sequence[States]) -> Sequence[NDArray[np.float32]]:
        """States of many encoder states, each (B, ...); mostly those that the last call left."""
        apart, together = self._last
        if same(kept, apart):
            return together
        return [np.concatenate(column) for column in zip(*kept, strict=True)]
