"""What a stream is told once: how far back it looks, when silence means missing, how calm it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Modality
from ifmmin.runtime.stream.numeric import as_count, as_number, refusal

LATE = ("refuse", "skip", "append")
_HOPS = 4
"""Hops in a window unless told otherwise."""
_SHORTEST_HOP = 1e-6
"""Seconds; times since 1970 are not told apart more finely in float64."""
_MOST_LANES = 10_000
"""Each costs memory, and a row in every call."""
_SECONDS = "a number of seconds above 0"


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
        half_life = _number("smoothing half_life", self.half_life, "0 or more", lambda x: x >= 0)
        margin = _number("smoothing margin", self.margin, "0 to 1", lambda x: 0 <= x < 1)
        patience = as_count("smoothing patience", self.patience, 1, "1 or more, a whole number")
        _settle(self, half_life=half_life, margin=margin, patience=patience)


@dataclass(frozen=True)
class StreamOptions:
    """How a stream treats the past.

    Raises InputError for values that are out of range or contradict each other.
    """

    window: float | None = None
    """Seconds that an answer looks back; None: all so far. At every hop's end it is exactly that of
    the frames of the last `window` seconds, in between of up to a hop less."""
    hop: float | None = None
    """Seconds between two moments at which the past is cut; None: a quarter of the window. Every
    hop in a window costs one more lane, all computed in one call."""
    stale_after: Mapping[Modality, float] = field(default_factory=dict)
    """Seconds of silence after which a modality counts as missing, until it comes back."""
    late: str = "refuse"
    """Frames older than the modality's newest: an error (`refuse`), left out and counted (`skip`),
    or heard in the order in which they come (`append`)."""
    clock: Callable[[], float] | None = None
    """Gives the time, in seconds, of what is pushed without one; for example time.monotonic."""
    smoothing: Smoothing | None = None

    def __post_init__(self) -> None:
        told = {"window": self.window, "hop": self.hop}
        seconds = {name: _seconds(name, x) for name, x in told.items() if x is not None}
        _settle(self, **seconds, stale_after=_limits(self.stale_after))
        if self.window is not None:
            _require_hops(self.window, self._hop(self.window))
        elif self.hop is not None:
            raise InputError("got a hop without a window, which it divides; give both or none")
        if self.late not in LATE:
            raise refusal("late", self.late, ", ".join(LATE))
        if self.clock is not None and not callable(self.clock):
            raise refusal("clock", self.clock, "a function of seconds such as time.monotonic")
        if self.smoothing is not None and not isinstance(self.smoothing, Smoothing):
            raise refusal("smoothing", self.smoothing, "Smoothing(...) or None")

    @property
    def seconds_per_hop(self) -> float | None:
        """None where nothing is forgotten."""
        return None if self.window is None else self._hop(self.window)

    @property
    def lanes(self) -> int:
        """Beginnings that are followed at once."""
        return 1 if self.window is None else max(1, round(self.window / self._hop(self.window)))

    def _hop(self, window: float) -> float:
        return self.hop if self.hop is not None else window / _HOPS


def _number(name: str, value: object, wanted: str, holds: Callable[[float], bool]) -> float:
    number = as_number(name, value, wanted)
    if not holds(number):
        raise refusal(name, value, wanted)
    return number


def _seconds(name: str, value: object) -> float:
    return _number(name, value, _SECONDS, lambda x: x > 0)


def _limits(given: object) -> dict[Modality, float]:
    if not isinstance(given, Mapping):
        raise refusal("stale_after", given, "seconds per modality such as {'v': 2.0}")
    return {Modality.of(m): _seconds(f"stale_after of {m}", x) for m, x in given.items()}


def _require_hops(window: float, hop: float) -> None:
    """InputError for a hop that is too short, and for a window that is no fair number of them."""
    if hop < _SHORTEST_HOP:
        raise refusal("hop", hop, f"at least {_SHORTEST_HOP:g} seconds")
    hops = window / hop
    if hops > _MOST_LANES:
        raise InputError(
            f"window {window:g} has more than {_MOST_LANES} hops of {hop:g} seconds; "
            "take longer ones"
        )
    if abs(hops - max(1, round(hops))) > 1e-6:
        raise InputError(f"window {window:g} is not a whole number of hops of {hop:g} seconds")


def _settle(options: Smoothing | StreamOptions, **values: Any) -> None:
    """Keep values as plain Python's, whatever numbers were given: they go into snapshots."""
    for name, value in values.items():
        object.__setattr__(options, name, value)
