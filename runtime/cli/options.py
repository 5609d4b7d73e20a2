"""Options of `ifmmin-run`, in groups, with the values that they may have.

They stand apart from the streams themselves, which a run without `--stream` does not import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..backends import BACKENDS
from ..errors import InputError
from ..modality import Modality

NanFrames = Literal["refuse", "drop"]
OnEmpty = Literal["error", "prior"]
Layout = Literal["table", "json", "csv"]
Late = Literal["refuse", "skip", "append"]
Replay = Literal["real", "fast"]

_ANSWERS, _EXECUTION, _STREAMS = "Answers", "Execution", "Streams: a session of events"


def parse_threads(text: str) -> int | Literal["auto"]:
    """`auto` or a number of threads; how large it may be is the predictor's to say."""
    try:
        return "auto" if text == "auto" else int(text)
    except ValueError:
        raise InputError(f"--threads: got {text!r}, wanted a number or auto") from None


def _option(flags: str, text: str, panel: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(*flags.split(), help=text, rich_help_panel=panel, metavar=metavar, **more)


Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT...", show_default=False,
        help=".npz with arrays a, v, t (frames, features), a directory of them, .jsonl, or - for "
        "lines of JSON on standard input.",
    ),
]  # fmt: skip
PatternOption = Annotated[
    str, _option("--pattern", "Use only these, e.g. a_t; auto: what is present.", _ANSWERS)
]
NanOption = Annotated[NanFrames, _option("--nan", "What to do with frames with a NaN.", _ANSWERS)]
QualityOption = Annotated[
    list[str] | None,
    _option("--min-quality", "Quality below which it is missing; repeat.", _ANSWERS, "v=0.5"),
]
ThresholdOption = Annotated[
    float, _option("--threshold", "Name no class less probable than this, 0 to 1.", _ANSWERS, "P")
]
TopKOption = Annotated[
    int | None, _option("--top-k", "Show the K most probable classes.", _ANSWERS, "K")
]
OnEmptyOption = Annotated[
    OnEmpty,
    _option("--on-empty", "With nothing present: an error, or the classes' prior.", _ANSWERS),
]
FormatOption = Annotated[Layout, _option("--format", "How answers are printed.", _ANSWERS)]
SaveOption = Annotated[
    Path | None,
    _option("--save -o", "Also write the answers, as .csv or .jsonl.", _ANSWERS, "FILE"),
]
LatencyOption = Annotated[
    bool, _option("--latency", "Print percentiles of the latency on standard error.", _ANSWERS)
]
BackendOption = Annotated[
    str,
    _option(
        "--backend", f"What runs the graphs: auto or one of {', '.join(BACKENDS)}.", _EXECUTION,
        envvar="IFMMIN_BACKEND",
    ),
]  # fmt: skip
PrecisionOption = Annotated[
    str,
    _option(
        "--precision", "Of the graphs: fp32, another that was exported, or auto for the fastest.",
        _EXECUTION,
    ),
]  # fmt: skip
ThreadsOption = Annotated[
    str, _option("--threads", "Threads inside one call, or auto.", _EXECUTION, "N",
                 envvar="IFMMIN_THREADS")
]  # fmt: skip
SpinningOption = Annotated[
    bool, _option("--spinning", "Let threads wait busily: sooner, at a core's cost.", _EXECUTION)
]
PreloadOption = Annotated[
    bool, _option("--preload", "Load the graphs of all patterns first, sharing.", _EXECUTION)
]
CacheOption = Annotated[
    Path | None,
    _option(
        "--cache", "Where engines and choices are kept; default: the user's cache.", _EXECUTION,
        "DIR", envvar="IFMMIN_CACHE",
    ),
]  # fmt: skip
ExplainOption = Annotated[
    bool, _option("--explain", "Try every way to run every pattern, and show them.", _EXECUTION)
]
StreamOption = Annotated[
    str | None,
    _option("--stream", "Lines of JSON: push, set_text, ..., tick.", _STREAMS, "FILE|-"),
]
WindowOption = Annotated[
    float | None, _option("--window", "Answer from the last S seconds.", _STREAMS, "S")
]
HopOption = Annotated[
    float | None, _option("--hop", "Cut the past every S seconds; needs --window.", _STREAMS, "S")
]
StaleOption = Annotated[
    list[str] | None,
    _option("--stale-after", "Seconds of silence after which a modality is missing; repeat.",
            _STREAMS, "v=2.5"),
]  # fmt: skip
LateOption = Annotated[
    Late | None,
    _option("--late", "Frames older than the newest: an error (default), left out, or heard as "
            "newest.", _STREAMS),
]  # fmt: skip
SmoothOption = Annotated[
    float | None, _option("--smooth", "Half-life of former probabilities, seconds.", _STREAMS, "S")
]
MarginOption = Annotated[
    float | None, _option("--margin", "Lead that another class needs, 0 to 1.", _STREAMS, "P")
]
PatienceOption = Annotated[
    int | None, _option("--patience", "Answers for which it has to lead.", _STREAMS, "N")
]
ClockOption = Annotated[
    bool, _option("--clock", "The time of an event is that of its arrival.", _STREAMS)
]
TickOption = Annotated[
    float | None,
    _option("--tick", "Answer every S seconds of silence, too; needs --clock.", _STREAMS, "S"),
]
SnapshotOption = Annotated[
    Path | None,
    _option("--snapshot", "Go on from this snapshot, and keep one here at the end.", _STREAMS,
            "FILE"),
]  # fmt: skip
ReplayOption = Annotated[
    Replay | None, _option("--replay", "Hold events back until their times, or not.", _STREAMS)
]
LiveOption = Annotated[
    bool, _option("--live", "Show the answer on the terminal as it changes.", _STREAMS)
]


@dataclass(frozen=True)
class SessionOptions:
    """What was asked of a session of events; None: not said."""

    window: float | None = None
    hop: float | None = None
    stale_after: Sequence[str] = ()
    late: Late | None = None
    smooth: float | None = None
    margin: float | None = None
    patience: int | None = None
    clock: bool = False
    tick: float | None = None
    snapshot: Path | None = None
    replay: Replay | None = None
    live: bool = False

    def require_consistent(self) -> None:
        """InputError for options that mean nothing together."""
        if self.clock and self.replay is not None:
            raise InputError("--replay goes by recorded times and --clock by arrival; choose one")
        if self.tick is not None and not self.clock:
            raise InputError("--tick needs --clock: without it no time passes in silence")
        if self.tick is not None and not 0 < self.tick < float("inf"):
            raise InputError(f"--tick: got {self.tick}, wanted a number of seconds above 0")

    def require_none(self) -> None:
        """InputError where one was given without a session."""
        for name, value in vars(self).items():
            if value is not None and value is not False and value != ():
                flag = "--" + name.replace("_", "-")
                raise InputError(f"{flag} is for streams; give --stream FILE or --stream - with it")


def numbers_by_modality(option: str, pairs: Sequence[str]) -> dict[Modality, float]:
    """The values of an option such as `--min-quality v=0.5`, given any number of times."""
    return dict(_number(option, pair) for pair in pairs)


def frames_by_modality(option: str, text: str | None) -> dict[Modality, int]:
    """Frames per modality of `a=45,v=50`; InputError says what is wanted."""
    frames: dict[Modality, int] = {}
    for pair in text.split(",") if text else ():
        letter, _, number = pair.partition("=")
        if not number.isdecimal() or int(number) < 1:
            raise InputError(f"{option}: got {pair!r}, wanted for example a=45")
        modality = Modality.of(letter.strip())
        if modality in frames:
            raise InputError(f"{option} names {modality} twice")
        frames[modality] = int(number)
    return frames


def _number(option: str, pair: str) -> tuple[Modality, float]:
    letter, _, number = pair.partition("=")
    try:
        return Modality.of(letter), float(number)
    except (ValueError, InputError):
        raise InputError(f"{option}: got {pair!r}, wanted for example v=0.5") from None
