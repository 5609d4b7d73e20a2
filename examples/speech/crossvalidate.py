"""Cross-validation over speakers of a recipe on the corpus of `prepare.py --folds`.

What the model card says of every pattern, corpus, noise and unseen corpus:
    python examples/speech/crossvalidate.py CORPUS --table recordings.csv --recipe speech
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from ifmmin.runtime import Modality, Pattern
from ifmmin.runtime.bundle import shipped
from ifmmin.runtime.cli.app import command, entry_point, new_app
from ifmmin.runtime.console import log_line, print_table, progress
from ifmmin.runtime.frontends.base import FrontEnd, open_frontend
from ifmmin.runtime.frontends.sound import RATE, Sound, mono, read_sound
from ifmmin.runtime.frontends.spec import read_folder, reader_of
from ifmmin.train.data import load_corpus
from ifmmin.train.data.corpus import Corpus, Utterance
from ifmmin.train.evaluate import calibrate, embed, labels_of, score
from ifmmin.train.metrics import measure
from ifmmin.train.recipe import Recipe, load_recipe
from ifmmin.train.trainer import train

A, T = Modality.A, Modality.T
CORPORA = ("ravdess", "emodb", "nemo")
_BLOCK = 512
Features = NDArray[np.float32]


def pink(sound: Sound, decibels: float, seed: int) -> Sound:
    """The sound at 16 kHz with pink noise that far under the mean power of its louder half."""
    samples = mono(sound).astype(np.float64)
    draws = np.random.default_rng(seed)
    spectrum = np.fft.rfft(draws.standard_normal(len(samples)))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    noise = np.fft.irfft(spectrum, n=len(samples))
    powers = [np.mean(samples[i : i + _BLOCK] ** 2) for i in range(0, len(samples), _BLOCK)]
    active = np.mean([power for power in powers if power >= np.mean(powers)])
    noise *= np.sqrt(active * 10 ** (-decibels / 10) / np.mean(noise**2))
    return Sound(np.clip(samples + noise, -1, 1).astype(np.float32), RATE)


def noisy_features(table: Path, frontend: FrontEnd, cache: Path) -> Mapping[str, Features]:
    """Features of every clip of the table in pink noise at 10 dB, by the clip's name."""
    if cache.exists():
        with np.load(cache) as kept:
            return dict(kept)
    with table.open(encoding="utf-8", newline="") as file:
        clips = {row["id"].split("+")[0]: row["sound"] for row in csv.DictReader(file)}
    clips = {name: path for name, path in clips.items() if path}
    found = {}
    with progress("noise", len(clips)) as advance:
        for number, (name, path) in enumerate(sorted(clips.items())):
            found[name] = frontend.whole(pink(read_sound(table.parent / path), 10.0, number))
            advance("")
    np.savez(cache, **found)  # type: ignore[arg-type]
    return found


@dataclass
class Answers:
    """Logits and labels under one condition, by corpus."""

    logits: dict[str, list[NDArray[np.floating]]] = field(default_factory=dict)
    labels: dict[str, list[NDArray[np.integer]]] = field(default_factory=dict)

    def add(self, corpus: str, logits: NDArray[np.floating], labels: Sequence[int]) -> None:
        """Keep some of a corpus."""
        if len(labels):
            self.logits.setdefault(corpus, []).append(logits)
            self.labels.setdefault(corpus, []).append(np.array(labels))

    def row(self) -> list[str]:
        """UA by corpus, and ECE over all."""
        every = {
            c: (np.concatenate(x), np.concatenate(self.labels[c])) for c, x in self.logits.items()
        }
        shares = [
            f"{measure(*every[c]).ua:.3f}" if c in every else "-" for c in (*CORPORA, "comment")
        ]
        logits, labels = (np.concatenate([pair[i] for pair in every.values()]) for i in (0, 1))
        return [*shares, f"{measure(logits, labels).ece:.3f}"]


def conditions(
    utterances: Sequence[Utterance], noisy: Mapping[str, Features]
) -> Iterator[tuple[str, str, str, list[Utterance]]]:
    """Name, pattern, corpus and utterances of all that is measured on a test part."""
    for corpus in CORPORA:
        own = [u for u in utterances if u.name.startswith(corpus) and u.name.endswith("+own")]
        comment = [u for u in utterances if u.name.startswith(corpus) and "+comment" in u.name]
        loud = [
            replace(u, features={**u.features, A: noisy[u.name.split("+")[0]]})
            for u in own
            if len(noisy[u.name.split("+")[0]])
        ]
        yield "a", "a", corpus, own
        yield "a, pink noise at 10 dB", "a", corpus, loud
        yield "a_t, its own words", "a_t", corpus, own
        yield "a_t, a comment of its class", "a_t", corpus, comment
    yield "t", "t", "comment", [u for u in utterances if u.name.startswith("comment")]


def answer(
    recipe: Recipe,
    corpus: Corpus,
    seed: int,
    noisy: Mapping[str, Features],
    found: dict[str, Answers],
) -> None:
    """Train on a corpus, fit temperatures, and answer its test part under every condition."""
    network = train(recipe, corpus, seed=seed).network
    network.eval()
    held = corpus.parts["validation"]
    calibrate(network, embed(network, held), labels_of(held))
    for name, pattern, which, utterances in conditions(corpus.parts["test"], noisy):
        if utterances:
            chosen = Pattern.parse(pattern)
            scores = score(network, utterances, [chosen])[chosen]
            labels = [utterances[row].label for row in scores.rows]
            found.setdefault(name, Answers()).add(which, scores.logits, labels)


def without(corpus: Corpus, unseen: str) -> Corpus:
    """The corpus with one of the three as its test part alone."""
    every = [u for part in corpus.parts.values() for u in part]
    parts = {
        part: [u for u in corpus.parts[part] if not u.name.startswith(unseen)]
        for part in ("train", "validation")
    }
    test = [u for u in every if u.name.startswith(unseen) and "~" not in u.name]
    return replace(corpus, parts={**parts, "test": test})


app = new_app()


@command(app, "python examples/speech/crossvalidate.py corpus --table recordings.csv")
def crossvalidate(
    corpus: Annotated[Path, typer.Argument(help="Folder that ifmmin-train extract made.")],
    table: Annotated[Path, typer.Option("--table", help="The table that it made it of.")],
    recipe: Annotated[str, typer.Option("--recipe")] = "speech",
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE")] = None,
    folds: Annotated[str, typer.Option("--folds", help="Such as 1,2.")] = "1,2,3,4,5",
    seeds: Annotated[str, typer.Option("--seeds", help="Such as 0,1,2.")] = "0",
    unseen: Annotated[bool, typer.Option("--unseen", help="Corpora held back whole.")] = False,
    frontend: Annotated[
        Path | None, typer.Option("--frontend", help="Folder of the front-end for sound.")
    ] = None,
) -> None:
    """Print UA by condition and corpus, and ECE over all, of networks that never heard a test
    speaker."""
    chosen = load_recipe(recipe, overrides or (), corpus=str(corpus))
    noisy = noisy_features(table, _frontend(frontend), corpus / "noisy.npz")
    torch.set_num_threads(1)
    found: dict[str, Answers] = {}
    for seed in map(int, seeds.split(",")):
        for fold in map(int, folds.split(",")):
            loaded = load_corpus(
                chosen.corpus, fold=fold, features=corpus / "features", targets=corpus / "targets"
            )
            if not unseen:
                answer(chosen, loaded, seed, noisy, found)
                continue
            for name in CORPORA:
                answer(chosen, without(loaded, name), seed, noisy, found)
        log_line(f"seed {seed} is done")
    rows = [[name, *answers.row()] for name, answers in found.items()]
    print_table(["UA", *CORPORA, "comments", "ECE"], rows)


def _frontend(folder: Path | None) -> Any:
    if folder is not None:
        return open_frontend(*read_folder(folder))
    from ifmmin.runtime.bundle import Bundle

    spec = Bundle(shipped()).manifest.modalities[A].frontend
    assert spec is not None
    return open_frontend(spec, reader_of(shipped()))


main = entry_point(app, "crossvalidate.py")

if __name__ == "__main__":
    sys.exit(main())
