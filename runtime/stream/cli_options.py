"""From the options of `ifmmin-run --stream` to what a stream and a replay are told."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from ifmmin.runtime.errors import InputError
from ifmmin.runtime.stream.events import Event
from ifmmin.runtime.stream.options import Smoothing, StreamOptions
from ifmmin.runtime.stream.replay import SPEEDS, pace
from ifmmin.runtime.stream_arguments import numbers_by_modality


def chosen_pace(options: argparse.Namespace) -> Callable[[Event], None]:
    """What to call before each event, by `--replay`."""
    speed = options.replay or "fast"
    if speed not in SPEEDS:
        raise InputError(f"--replay: got {speed!r}, wanted {' or '.join(SPEEDS)}")
    return pace(speed)


def stream_options(options: argparse.Namespace) -> StreamOptions:
    """What the stream is told; InputError for values that are out of range."""
    started = time.monotonic()
    return StreamOptions(
        window=options.window,
        hop=options.hop,
        stale_after=numbers_by_modality("--stale-after", options.stale_after or []),
        late=options.late or "refuse",
        clock=(lambda: time.monotonic() - started) if options.clock else None,
        smoothing=_smoothing(options),
    )


def _smoothing(options: argparse.Namespace) -> Smoothing | None:
    given = {
        "half_life": options.smooth,
        "margin": options.margin,
        "patience": options.patience,
    }
    told = {name: value for name, value in given.items() if value is not None}
    return Smoothing(**told) if told else None
