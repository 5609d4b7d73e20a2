"""Options of `ifmmin-run --stream`, and how their values are parsed.

They stand apart from the streams themselves, which a run without `--stream` does not import.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..modality import Modality

_OPTIONS: dict[str, dict[str, Any]] = {
    "--window": {"type": float, "metavar": "S", "help": "answer from the last S seconds"},
    "--hop": {"type": float, "metavar": "S", "help": "cut the past so often"},
    "--stale-after": {
        "action": "append",
        "metavar": "v=2.5",
        "help": "seconds of silence after which a modality is missing",
    },
    "--late": {
        "metavar": "refuse|skip|append",
        "help": "frames older than the newest: an error (default), left out, or heard as newest",
    },
    "--smooth": {"type": float, "metavar": "S", "help": "half-life of former probabilities"},
    "--margin": {"type": float, "metavar": "P", "help": "lead that another class needs"},
    "--patience": {"type": int, "metavar": "N", "help": "answers for which it has to lead"},
    "--clock": {"action": "store_true", "help": "the time of an event is that of its arrival"},
    "--tick": {"type": float, "metavar": "S", "help": "answer every S seconds of silence, too"},
    "--snapshot": {"type": Path, "metavar": "FILE", "help": "go on from it; kept at the end"},
    "--replay": {"metavar": "real|fast", "help": "hold events back until their times, or not"},
    "--live": {"action": "store_true", "help": "show the answer on the terminal as it changes"},
}


def add_stream_arguments(cli: argparse.ArgumentParser) -> None:
    """Add `--stream` and what goes with it."""
    group = cli.add_argument_group("streams", "a session of events instead of utterances")
    group.add_argument(
        "--stream", metavar="FILE|-", help="lines of JSON: push, set_text, clear, drop, ..., tick"
    )
    for flag, settings in _OPTIONS.items():
        group.add_argument(flag, default=None, **settings)


def require_no_contradiction(options: argparse.Namespace) -> None:
    """InputError for options that mean nothing together."""
    if options.stream is None:
        alone = [flag for flag in _OPTIONS if _value(options, flag) is not None]
        if alone:
            raise InputError(f"{alone[0]} is for streams; give --stream FILE or --stream - with it")
        return
    for name, given, instead in _NOT_WITH_STREAM:
        if given(options):
            raise InputError(f"{name} does not go with --stream; {instead}")
    if options.clock and options.replay is not None:
        raise InputError("--replay goes by recorded times and --clock by arrival; choose one")
    if options.tick is not None and not options.clock:
        raise InputError("--tick needs --clock: without it no time passes while nothing arrives")
    if options.tick is not None and not 0 < options.tick < float("inf"):
        raise InputError(f"--tick: got {options.tick}, wanted a number of seconds above 0")


def numbers_by_modality(option: str, pairs: Sequence[str]) -> dict[Modality, float]:
    """The values of an option such as `--min-quality v=0.5`, given any number of times."""
    return dict(_number(option, pair) for pair in pairs)


def _number(option: str, pair: str) -> tuple[Modality, float]:
    letter, _, number = pair.partition("=")
    try:
        return Modality.of(letter), float(number)
    except (ValueError, InputError):
        raise InputError(f"{option}: got {pair!r}, wanted for example v=0.5") from None


def _value(options: argparse.Namespace, flag: str) -> Any:
    return getattr(options, flag.removeprefix("--").replace("-", "_"))


_NOT_WITH_STREAM: Sequence[tuple[str, Callable[[argparse.Namespace], bool], str]] = (
    ("an input", lambda o: bool(o.input), "name the session alone: --stream FILE or --stream -"),
    ("--pattern", lambda o: o.pattern != "auto", "leave a modality out with a drop event"),
    ("--format csv", lambda o: o.layout == "csv", "answers are lines of JSON"),
    ("--preload", lambda o: o.preload, "a stream loads all its graphs first"),
    ("--explain", lambda o: o.explain, "ask for it alone"),
)
