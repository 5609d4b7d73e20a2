"""What a stream is told once: how far back it looks, when silence means missing, how calm it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Modality

LATE = ("refuse", "skip", "append")
_HOPS = 4
"""Hops in a window, or in the time after which half is forgotten, unless told otherwise."""


@dataclass(frozen=True)
class Smoothing:
    """Keeps an answer from flickering.

    Raises InputError for a value out of range.
    """

    half_life: float = 0.0
    """Time in which half of what the probabilities were is gone: seconds where the stream has
    times, else answers. 0: probabilities are those of the moment."""
    margin: float = 0.0
    """The named class changes only where another one's probability leads by more than this."""
    patience: int = 1
    """And has led so in this many answers, one after the other."""

    def __post_init__(self) -> None:
        _require("smoothing half_life", self.half_life, "0 or more", self.half_life >= 0)
        _require("smoothing margin", self.margin, "0 to 1", 0 <= self.margin < 1)
        _require("smoothing patience", self.patience, "1 or more", self.patience >= 1)


@dataclass(frozen=True)
class StreamOptions:
    """How a stream treats the past.

    Raises InputError for values that are out of range or contradict each other.
    """

    window: float | None = None
    """Seconds that an answer looks back; None: all so far. At every hop's end it is exactly that of
    the frames of the last `window` seconds, in between of up to a hop less."""
    half_life: float | None = None
    """Seconds after which half of what a modality said is forgotten; None: nothing ever is."""
    hop: float | None = None
    """Seconds between two moments at which the past is cut or fades; None: a quarter of the window
    or of the half-life. Every hop in a window costs one more lane, all computed in one call."""
    stale_after: Mapping[Modality, float] = field(default_factory=dict)
    """Seconds of silence after which a modality counts as missing, until it comes back."""
    late: str = "refuse"
    """Frames older than the modality's newest: an error (`refuse`), left out and counted (`skip`),
    or heard in the order in which they come (`append`)."""
    clock: Callable[[], float] | None = None
    """Gives the time, in seconds, of what is pushed without one; for example time.monotonic."""
    smoothing: Smoothing | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.half_life is not None:
            raise InputError("got both a window and a half_life; a stream forgets in one way")
        for name, value in (
            ("window", self.window),
            ("half_life", self.half_life),
            ("hop", self.hop),
            *((f"stale_after of {Modality.of(m)}", s) for m, s in self.stale_after.items()),
        ):
            if value is not None:
                _require(name, value, "a number of seconds above 0", value > 0)
        if self.hop is not None and self.span is None:
            raise InputError("got a hop without a window or a half_life; it divides one of them")
        if self.window is not None and abs(self.window / self._hop - self.lanes) > 1e-6:
            raise InputError(
                f"window {self.window:g} is not a whole number of hops of {self._hop:g} seconds"
            )
        if self.late not in LATE:
            raise InputError(f"late: got {self.late!r}, wanted {', '.join(LATE)}")

    @property
    def span(self) -> float | None:
        """The window or the half-life in seconds; None where nothing is forgotten."""
        return self.window if self.window is not None else self.half_life

    @property
    def seconds_per_hop(self) -> float | None:
        """None where nothing is forgotten."""
        return None if self.span is None else self._hop

    @property
    def lanes(self) -> int:
        """Beginnings that are followed at once."""
        return 1 if self.window is None else max(1, round(self.window / self._hop))

    @property
    def kept_share(self) -> float:
        """Share of the past that is left after a hop."""
        return 1.0 if self.half_life is None else 0.5 ** (self._hop / self.half_life)

    @property
    def _hop(self) -> float:
        return self.hop if self.hop is not None else (self.span or 1.0) / _HOPS


def _require(name: str, value: float, wanted: str, holds: bool) -> None:
    if not (math.isfinite(value) and holds):
        raise InputError(f"{name}: got {value}, wanted {wanted}")
