"""Table of recordings for `ifmmin-train extract`, from local copies of four public corpora.

RAVDESS, EMO-DB and nEMO give the sound, GoEmotions the comments. Whatever its voice, a clip of
RAVDESS or EMO-DB says one of some neutral sentences: it stands in the table with that sentence, so
that training learns that words may say nothing, and once more beside a comment of its own class.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ifmmin.runtime.cli.app import command, entry_point, new_app
from ifmmin.runtime.console import log_line
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.files import atomic_file

PARTS = ("train", "validation", "test")
COLUMNS = ("id", "sound", "text", "label", "speaker", "part")
CORPORA = ("ravdess", "emodb", "nemo")
LABELS = {
    "ravdess": {"05": "angry", "03": "happy", "01": "neutral", "04": "sad"},
    "emodb": {"W": "angry", "F": "happy", "N": "neutral", "T": "sad"},
    "nemo": {"anger": "angry", "happiness": "happy", "neutral": "neutral", "sadness": "sad"},
}
"""By corpus: how the names of its files call the classes."""
SENTENCES = {
    "ravdess": {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."},
    "emodb": {
        "a01": "Der Lappen liegt auf dem Eisschrank.",
        "a02": "Das will sie am Mittwoch abgeben.",
        "a04": "Heute abend könnte ich es ihm sagen.",
        "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
        "a07": "In sieben Stunden wird es soweit sein.",
        "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
        "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
        "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
        "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
        "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
    },
    "nemo": {},
}
"""By corpus: what is said, by its code in the names of files; of nEMO the names do not tell."""
HELD_BACK = {"ravdess": ("09", "18"), "emodb": ("14",), "nemo": ()}
"""Speakers kept from training: every other clip fits the temperatures, the rest are the test. Of
nEMO's seven none can be spared; evaluate.py says what is reached on speakers of all three."""

Row = dict[str, str]
Comments = dict[str, list[str]]
"""By class."""


class Clip:
    """One recording, and what its name tells: class, speaker and sentence."""

    def __init__(self, file: Path, corpus: str) -> None:
        self.file, self.name = file, f"{corpus}-{file.stem}"
        sentence = ""
        if corpus == "ravdess":
            _, _, emotion, _, sentence, _, speaker = file.stem.split("-")
        elif corpus == "emodb":
            speaker, sentence, emotion = file.stem[:2], file.stem[2:5], file.stem[5]
        else:
            speaker, emotion, _ = file.stem.split("_")
        self.label = LABELS[corpus][emotion]
        self.speaker = f"{corpus}-{speaker}"
        self.sentence = SENTENCES[corpus].get(sentence, "")
        self.held_back = speaker in HELD_BACK[corpus]


def clips_of(folder: Path, corpus: str) -> list[Clip]:
    """The recordings of a corpus, sorted. InputError where there are none, or one has a name that
    the corpus does not give."""
    files = sorted((folder / corpus).glob("*.flac")) + sorted((folder / corpus).glob("*.wav"))
    if not files:
        raise InputError(f"{folder / corpus} holds no .flac or .wav; put {corpus} there")
    clips = []
    for file in files:
        try:
            clips.append(Clip(file, corpus))
        except (KeyError, ValueError, IndexError):
            raise InputError(
                f"{file}: not a name that {corpus} gives to one of the four classes; move it away"
            ) from None
    return clips


def parts_of(clips: Sequence[Clip]) -> Iterator[str]:
    """The part of each."""
    held = 0
    for clip in clips:
        held += clip.held_back
        yield PARTS[1 + held % 2] if clip.held_back else PARTS[0]


def rows_of_clip(
    clip: Clip, part: str, comments: Comments, draws: np.random.Generator
) -> Iterator[Row]:
    """The clip with its own sentence, or a neutral comment where that is not known, and the clip
    beside a comment of its class."""

    def drawn(label: str) -> str:
        return comments[label][draws.integers(len(comments[label]))]

    own = clip.sentence or drawn("neutral")
    for kind, text in (("own", own), ("comment", drawn(clip.label))):
        values = (f"{clip.name}+{kind}", str(clip.file), text, clip.label, clip.speaker, part)
        yield dict(zip(COLUMNS, values, strict=True))


def rows_of_comments(file: Path, parts: Sequence[str]) -> list[Row]:
    """Comments alone, each a speaker of its own, the parts in turn: a CSV file with the columns id,
    label, text."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            found = [(row["id"], row["text"], row["label"]) for row in csv.DictReader(stream)]
    except (OSError, KeyError) as error:
        raise InputError(f"{file}: wanted a CSV file of id, label, text; got {error}") from error
    return [
        dict(zip(COLUMNS, (f"comment-{name}", "", text, label, name, part), strict=True))
        for (name, text, label), part in zip(found, cycle(parts), strict=False)
    ]


def by_class(rows: Sequence[Row]) -> Comments:
    """Their texts."""
    found: Comments = {}
    for row in rows:
        found.setdefault(row["label"], []).append(row["text"])
    return found


app = new_app()


@command(app, "python examples/speech/prepare.py DATA --out recordings.csv")
def prepare(
    data: Annotated[
        Path, typer.Argument(help="Folder that holds sound/CORPUS/*.flac and goemotions/*.csv.")
    ],
    corpora: Annotated[
        list[str] | None, typer.Option("--corpus", help="One of them, again and again.")
    ] = None,
    folds: Annotated[
        bool, typer.Option("--folds", help="Leave the parts to extract: folds by speaker.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the comments that are drawn.")] = 1,
    out: Annotated[Path, typer.Option("--out", "-o", help="The table.")] = Path("recordings.csv"),
) -> None:
    """Write a table of recordings and comments for `ifmmin-train extract`."""
    chosen = corpora or list(CORPORA)
    for name in chosen:
        if name not in CORPORA:
            raise InputError(f"--corpus: got {name!r}, wanted {', '.join(CORPORA)}")
    folder = data.resolve() / "goemotions"
    alone = rows_of_comments(folder / "train.csv", PARTS[:1])
    held_back = rows_of_comments(folder / "validation.csv", PARTS[1:])
    comments = {
        part: by_class([row for row in alone + held_back if row["part"] == part]) for part in PARTS
    }
    draws = np.random.default_rng(seed)
    rows: list[Row] = []
    for name in chosen:
        clips = clips_of(data.resolve() / "sound", name)
        for clip, part in zip(clips, parts_of(clips), strict=True):
            rows += rows_of_clip(clip, part, comments[part], draws)
    with (
        atomic_file(out) as unfinished,
        unfinished.open("w", encoding="utf-8", newline="") as stream,
    ):
        columns = COLUMNS[:-1] if folds else COLUMNS
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows + alone + held_back)
    log_line(f"{out}: {len(rows)} rows of clips of {', '.join(chosen)}, the rest comments")


main = entry_point(app, "prepare.py")

if __name__ == "__main__":
    sys.exit(main())
