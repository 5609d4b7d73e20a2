"""Options of `ifmmin-run`, in groups, with the values that they may have.

They stand apart from the streams themselves, which a run without `--stream` does not import.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from ..errors import InputError
from ..modality import Modality

NanFrames = Literal["refuse", "drop"]
OnEmpty = Literal["error", "prior"]
Layout = Literal["table", "json", "csv"]
Executor = Literal["here", "ray"]
Late = Literal["refuse", "skip", "append"]
Replay = Literal["real", "fast"]


def _panel(name: str) -> Callable[..., Any]:
    def option(text: str, *flags: str, **more: Any) -> Any:
        return typer.Option(*flags, help=text, rich_help_panel=name, **more)

    return option


signals, answers, execution = _panel("Sound and words"), _panel("Answers"), _panel("Execution")
streams = _panel("Streams: a session of events")
"""Options of a group of the help: what it is for, and flags where its name is another."""


def parse_threads(text: str) -> int | Literal["auto"]:
    """`auto` or a number of threads; how large it may be is the predictor's to say."""
    try:
        return "auto" if text == "auto" else int(text)
    except ValueError:
        raise InputError(f"--threads: got {text!r}, wanted a number or auto") from None


_LIVE = ("window", "hop", "stale_after", "smooth", "margin", "patience", "snapshot")


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

    def require_none(self, live: bool = False) -> None:
        """InputError where one was given without a session; live: but of those for live sound."""
        for name, value in vars(self).items():
            if live and name in _LIVE:
                continue
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


def texts_by_modality(option: str, pairs: Sequence[str]) -> dict[Modality, str]:
    """Text per modality of `a=DIR`, repeated; InputError says what is wanted."""
    texts: dict[Modality, str] = {}
    for pair in pairs:
        letter, _, text = pair.partition("=")
        if not text:
            raise InputError(f"{option}: got {pair!r}, wanted for example a=DIR")
        modality = Modality.of(letter.strip())
        if modality in texts:
            raise InputError(f"{option} names {modality} twice")
        texts[modality] = text
    return texts


def _number(option: str, pair: str) -> tuple[Modality, float]:
    letter, _, number = pair.partition("=")
    try:
        return Modality.of(letter), float(number)
    except (ValueError, InputError):
        raise InputError(f"{option}: got {pair!r}, wanted for example v=0.5") from None
