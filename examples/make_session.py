"""Write a session of events for `ifmmin-run --stream`, drawn from the synthetic corpus.

Somebody speaks into a camera that is covered for a moment, a recogniser revises the text, it falls
silent; then somebody else sits down, and the camera is gone for good.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray

from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.cli.app import command, entry_point, new_app
from ifmmin.runtime.console import log_line
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.files import atomic_file
from ifmmin.runtime.modality import MODALITIES, Modality
from ifmmin.train.data.corpus import Corpus, Utterance
from ifmmin.train.data.synthetic import SyntheticLayout, draw_synthetic
from ifmmin.train.recipe import load_recipe

SESSION = Path(__file__).resolve().parent / "session.jsonl"
_FOLD = 1
_DRAWN = 64
"""Utterances to choose from: the first of the test part, on which the network of
`make pipeline` never trained."""
_STEP = 0.5
"""Seconds between pushes of voice and face."""
_RATE = 10.0
"""Frames a second where the corpus names no rate."""
_DECIMALS = 1
"""Keeps the file small; what is lost is far below the corpus' noise."""

Event = dict[str, Any]


app = new_app()


@command(app, "python examples/make_session.py -b bundle")
def make_session(
    recipe: Annotated[str, typer.Option(help="Recipe of a synthetic corpus.")] = "synthetic",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As in ifmmin-train.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", "-b", help="One that the session has to fit.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file.")] = SESSION,
) -> None:
    """Write a session of events, drawn from the synthetic corpus."""
    corpus = _draw(recipe, overrides or ())
    known = MODALITIES if bundle is None else _fitting(corpus, bundle)
    lines = [json.dumps(event, separators=(",", ":")) for event in session(corpus, known)]
    with atomic_file(out) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    log_line(f"{out} has {len(lines)} events")


main = entry_point(app, "make_session.py")


def session(corpus: Corpus, known: Collection[Modality] = MODALITIES) -> list[Event]:
    """The events in order of time, those of some modalities."""
    first, second = _two_short_ones(corpus)
    events = _covered_for_a_moment(corpus, first, other=second)
    events += _without_a_camera(corpus, second, start=events[-1]["at"] + 1.0)
    kept = (_only(event, known) for event in events)
    return [event for event in kept if event is not None]


def _covered_for_a_moment(corpus: Corpus, speaker: Utterance, other: Utterance) -> list[Event]:
    """Speech, a text that is guessed, then revised, and silence."""
    pushes = _speech(corpus, speaker, start=0.0)
    for event in pushes:
        if 1.0 < event["at"] <= 2.0:
            event.pop("v", None)
    tokens = speaker.features[Modality.T]
    wrong = np.concatenate((tokens[:-2], other.features[Modality.T][:1]))
    end = pushes[-1]["at"]
    events = [
        *pushes,
        {"event": "drop", "id": "camera covered", "at": 1.1, "modality": "v"},
        {"event": "restore", "id": "camera free", "at": 2.1, "modality": "v"},
        {"event": "set_text", "id": "text guessed", "at": 2.2, "tokens": _short(wrong)},
        {"event": "set_text", "id": "text revised", "at": end + 0.2, "tokens": _short(tokens)},
        *({"event": "tick", "id": "silence", "at": end + passed} for passed in (1.0, 2.0, 3.0)),
    ]
    return sorted(events, key=_time)


def _without_a_camera(corpus: Corpus, speaker: Utterance, start: float) -> list[Event]:
    """Somebody else, of whom the camera sees the beginning only, and text that grows."""
    pushes = _speech(corpus, speaker, start)
    for event in pushes:
        if event["at"] > start + 1.0:
            event.pop("v", None)
    tokens = _short(speaker.features[Modality.T])
    half = len(tokens) // 2
    end = pushes[-1]["at"]
    events = [
        {"event": "reset", "id": "somebody else", "at": start},
        *pushes,
        {"event": "clear", "id": "camera gone", "at": start + 1.1, "modality": "v"},
        {"event": "push", "at": start + 1.2, "t": tokens[:half]},
        {"event": "push", "at": end + 0.2, "t": tokens[half:]},
    ]
    return sorted(events, key=_time)


def _speech(corpus: Corpus, speaker: Utterance, start: float) -> list[Event]:
    """Voice and face of an utterance, pushed every half second."""
    frames = {m: speaker.features[m] for m in (Modality.A, Modality.V)}
    rates = {m: corpus.features[m].frame_rate or _RATE for m in frames}
    steps = max(math.ceil(len(x) / (_STEP * rates[m])) for m, x in frames.items())
    pushes = []
    for step in range(steps):
        event: Event = {"event": "push", "at": start + (step + 1) * _STEP}
        for m, x in frames.items():
            begin, end = (round(k * _STEP * rates[m]) for k in (step, step + 1))
            if begin < len(x):
                event[m.value] = _short(x[begin:end])
        pushes.append(event)
    return pushes


def _two_short_ones(corpus: Corpus) -> tuple[Utterance, Utterance]:
    """The two utterances that take least room, of different emotions."""
    ranked = sorted(corpus.parts["test"], key=lambda u: sum(x.size for x in u.features.values()))
    first = ranked[0]
    return first, next(u for u in ranked if u.label != first.label)


def _draw(recipe: str, overrides: Sequence[str]) -> Corpus:
    layout = load_recipe(recipe, overrides).corpus
    if not isinstance(layout, SyntheticLayout):
        raise InputError(
            f"recipe {recipe} is not of a synthetic corpus; take one such as synthetic"
        )
    # Each part is drawn by itself, one utterance after the other: few are the first of many.
    few = msgspec.structs.replace(layout, train=4, validation=4, test=min(layout.test, _DRAWN))
    return draw_synthetic(few, fold=_FOLD)


def _fitting(corpus: Corpus, bundle: Path) -> Collection[Modality]:
    """The modalities of a bundle; InputError where its features are others."""
    specs = Bundle(bundle).manifest.modalities
    for modality, spec in specs.items():
        dim = corpus.features[modality].dim
        if spec.dim != dim:
            raise InputError(
                f"modality {modality}: the corpus has {dim} features, {bundle} wants {spec.dim}; "
                "give --recipe and --set of the run that it was exported from"
            )
    return specs.keys()


def _only(event: Event, known: Collection[Modality]) -> Event | None:
    """The event without unknown modalities; None where it is of one of them alone."""
    named = "t" if event["event"] == "set_text" else event.get("modality")
    if named is not None and named not in known:
        return None
    kept = {key: x for key, x in event.items() if key in known or key not in ("a", "v", "t")}
    return kept | {"at": round(event["at"], 3)}


def _short(frames: NDArray[Any]) -> list[list[float]]:
    """Frames (T, D) in few characters."""
    rounded = ([round(float(x), _DECIMALS) for x in frame] for frame in frames)
    return [[int(x) if x == int(x) else x for x in frame] for frame in rounded]


def _time(event: Event) -> float:
    return float(event["at"])


if __name__ == "__main__":
    sys.exit(main())
