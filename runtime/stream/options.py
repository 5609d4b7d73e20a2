"""Options of a stream: how far back it looks, when silence means missing, how calm it is."""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..modality import Modality

_LONGEST_INTEGER = 64
"""Bits of integers that a message spells out; Python refuses to write down very long ones."""


def as_number(name: str, value: object, wanted: str) -> float:
    """A finite real number as a float; InputError for anything else, True and False included."""
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise refusal(name, value, wanted)


def as_count(name: str, value: object, least: int, wanted: str) -> int:
    """An integer of at least `least`; InputError for anything else, True and False included."""
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise refusal(name, value, wanted) from None
    if isinstance(value, bool) or count < least:
        raise refusal(name, value, wanted)
    return count


def refusal(name: str, value: object, wanted: str) -> InputError:
    """The error for a value that is not what is wanted."""
    return InputError(f"{name}: got {shown(value)}, wanted {wanted}")


def shown(value: object) -> str:
    """A value in a few words on one line."""
    if isinstance(value, int) and value.bit_length() > _LONGEST_INTEGER:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, Real):
        return str(value)
    if value is None or isinstance(value, (str, bytes)):
        return reprlib.repr(value)
    return f"an object of type {type(value).__name__}"


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
    hop in a window costs one more encoder state, all computed in one call."""
    stale_after: Mapping[Modality, float] = field(default_factory=dict)
    """Seconds of silence after which a modality counts as missing, until it comes back."""
    late: str = "refuse"
    """Frames older than the modality's newest: an error (`refuse`), left out and counted (`skip`),
    or heard in the order in which they come (`append`)."""
    clock: Callable[[], float] | None = None
    """Gives the time, in seconds, of what is pushed without one; for example time.monotonic."""
    smoothing: Smoothing | None = None
    """How calm the answers are; None: each stands for itself."""

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
    def window_count(self) -> int:
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


Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
"""Of frames, answers or classes, as a snapshot may say it."""
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.001)]
"""A probability, as sums round it."""


class SmootherState(msgspec.Struct):
    """What smoothing keeps between answers."""

    probabilities: list[Share] | None
    """(C,), smoothed; None before the first answer."""
    label: Count
    rival: Count
    leads: Count
    """Answers in a row in which the rival led."""
    last: float | None

    def require(self, classes: int) -> None:
        """ValueError unless it can be that of so many classes."""
        if len(self.probabilities or range(classes)) != classes:
            raise ValueError(f"smoothed probabilities, wanted {classes}")
        if max(self.label, self.rival) >= classes:
            raise ValueError(f"a class beyond the {classes} there are")


class Smoother:
    """Exponential smoothing of probabilities, and a label with hysteresis.

    Brown's simple exponential smoothing with a weight that follows from the time between answers,
    as for unevenly spaced series; a Schmitt trigger for the label.
    """

    def __init__(self, options: Smoothing) -> None:
        self._options = options
        self._probabilities: NDArray[np.float64] | None = None
        self._label = 0
        self._rival = 0
        self._leads = 0
        self._last: float | None = None

    def __call__(
        self, probabilities: NDArray[np.float32], now: float | None
    ) -> tuple[int, NDArray[np.float32]]:
        """The class to name and the smoothed probabilities (C,) of a new answer at a time."""
        new = probabilities.astype(np.float64)
        if self._probabilities is None:
            self._probabilities, self._label, self._last = new, int(new.argmax()), now
            return self._label, probabilities
        kept = self._kept(now)
        self._probabilities = kept * self._probabilities + (1.0 - kept) * new
        self._last = now
        self._choose(self._probabilities)
        return self._label, self._probabilities.astype(np.float32)

    def state(self) -> SmootherState:
        """All that has to be kept to go on."""
        kept = self._probabilities
        shares = None if kept is None else kept.tolist()
        return SmootherState(shares, self._label, self._rival, self._leads, self._last)

    def restore(self, state: SmootherState, shift: float) -> None:
        """Go on from what `state` gave, whose times move by some seconds."""
        kept, last = state.probabilities, state.last
        self._probabilities = None if kept is None else np.array(kept, dtype=np.float64)
        self._label, self._rival, self._leads = state.label, state.rival, state.leads
        self._last = None if last is None else last + shift

    def _kept(self, now: float | None) -> float:
        """Share of the past in the new value."""
        if self._options.half_life == 0.0:
            return 0.0
        passed = 1.0 if now is None or self._last is None else now - self._last
        return float(0.5 ** (passed / self._options.half_life))

    def _choose(self, smoothed: NDArray[np.float64]) -> None:
        rival = int(smoothed.argmax())
        if rival == self._label:
            self._leads = 0
            return
        if smoothed[rival] - smoothed[self._label] <= self._options.margin:
            self._leads = 0
            return
        self._leads = self._leads + 1 if rival == self._rival else 1
        self._rival = rival
        if self._leads >= self._options.patience:
            self._label, self._leads = rival, 0


_WANTED = "a finite number of seconds"
_MOST_HOPS = 2.0**52
"""Up to there float64 tells one hop from the next."""


def resolve_time(options: StreamOptions, at: Any) -> float | None:
    """Seconds; None where no time is given and there is no clock.

    Raises InputError for what is no finite number, and where hops are too short to be counted up to
    there.
    """
    name = "time"
    if at is None:
        if options.clock is None:
            return None
        at, name = options.clock(), "clock"
    if type(at) is not float or not math.isfinite(at):
        at = as_number(name, at, _WANTED)
    hop = options.seconds_per_hop
    if hop is not None and abs(at) > _MOST_HOPS * hop:
        limit = f"at most {_MOST_HOPS * hop:.3g} seconds where hops are of {hop:g}"
        raise refusal(name, at, limit)
    return float(at)
