"""`make demo`: train on the synthetic corpus, export, run, and print what came out.

Everything goes through the interfaces that a user has: a recipe, a checkpoint, a bundle, Predictor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ifmmin.export import export_bundle
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.cli.app import command, entry_point, new_app
from ifmmin.runtime.console import log_line, print_table, progress, write
from ifmmin.runtime.errors import ParityError
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern
from ifmmin.runtime.predictor import Predictor
from ifmmin.train.checkpoint import load_checkpoint
from ifmmin.train.data import load_corpus
from ifmmin.train.data.corpus import Corpus
from ifmmin.train.metrics import Metrics, measure
from ifmmin.train.model.network import EmotionNetwork
from ifmmin.train.recipe import load_recipe
from ifmmin.train.trainer import CHECKPOINT_NAME, fit

from .peers.onnx import Monolith
from .scenarios.plan import ORDINARY
from .timing import Timing, time_together

_PEER_TOLERANCE = 1e-2
"""The monolith's zeros are as long as the utterance, so its constants differ a little."""
_FOLD = 1


@dataclass(frozen=True)
class Comparison:
    """Timings of one pattern."""

    pattern: Pattern
    ours: Timing
    control: Timing
    """The same graph in a session of its own: what differs from `ours` is noise."""
    monolith: Timing

    @property
    def ratio(self) -> float:
        """How many times longer the monolith takes, by the medians."""
        return self.monolith.p50 / self.ours.p50

    @property
    def noise(self) -> float:
        """Relative difference of the two equal sessions' medians."""
        return abs(self.control.p50 / self.ours.p50 - 1.0)


def compare_latency(
    bundle: Path, network: EmotionNetwork, *, repeats: int = 300, threads: int = 1
) -> list[Comparison]:
    """Time `Predictor.predict` and a bare monolith call on an ordinary utterance per pattern.

    Ours includes validation and the softmax, the monolith's is the bare session. Raises ParityError
    if the two disagree, since a fast wrong answer is worth nothing.
    """
    # The same engine as the monolith's: what differs is the graph.
    engine = "onnxruntime-cpu"
    ours, control = (Predictor(bundle, backend=engine, threads=threads) for _ in range(2))
    monolith = Monolith(network, threads)
    utterance = ordinary_utterance(network)
    found = []
    for pattern in ours.patterns:
        given = {m: utterance[m] for m in pattern}
        prepared = monolith.prepare(given, ORDINARY)
        temperature = float(network.temperatures[ALL_PATTERNS.index(pattern)])
        # The monolith is what a user gets by exporting the network: it knows no calibration.
        logits = ours.predict(given).logits * temperature
        require_agreement(pattern, logits, monolith(prepared))
        # Pattern by pattern: a session that took part in every pattern would have warmer caches.
        calls: dict[str, Callable[[], object]] = {
            "ours": partial(ours.predict, given),
            "control": partial(control.predict, given),
            "monolith": partial(monolith, prepared),
        }
        found.append(Comparison(pattern, **time_together(calls, repeats=repeats, settled=True)))
    return found


def ordinary_utterance(network: EmotionNetwork) -> dict[Modality, np.ndarray]:
    """Features of an ordinary utterance, drawn around the network's own statistics."""
    rng = np.random.default_rng(0)
    utterance = {}
    for modality, frames in ORDINARY.items():
        normaliser = network.normaliser(modality)
        noise = rng.standard_normal((frames, len(normaliser.mean)))
        raw = normaliser.mean.numpy() + normaliser.std.numpy() * noise
        utterance[modality] = raw.astype(np.float32)
    return utterance


def require_agreement(pattern: Pattern, ours: np.ndarray, theirs: np.ndarray) -> None:
    """ParityError unless two answers to a pattern, logits (C,), are alike."""
    difference = float(np.abs(ours - theirs).max())
    if difference > _PEER_TOLERANCE:
        raise ParityError(
            f"pattern {pattern}: our logits and the monolith's differ by {difference:.1e}, "
            f"allowed {_PEER_TOLERANCE:.0e}; nothing was timed"
        )


@dataclass(frozen=True)
class DemoRow:
    """What the demo found for one pattern."""

    reached: Metrics
    """Of the exported graph's answers on the test part."""
    possible: float
    """Accuracy of the Bayes rule on the same utterances."""
    latency: Comparison
    parity: float
    """Largest difference of a logit to the network, from the export."""


app = new_app()


@command(app, "python -m ifmmin.benchmarks.demo -o demo")
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for run and bundle.")] = Path(
        "demo"
    ),
    recipe: Annotated[str, typer.Option(help="Recipe of a synthetic corpus.")] = "synthetic",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As in ifmmin-train.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Timed calls per pattern.")] = 300,
) -> None:
    """Train, export and run on the synthetic corpus."""
    print_rows(run_demo(out, recipe, overrides or (), repeats))
    log_line(f"the checkpoint is {out / 'run' / CHECKPOINT_NAME}")
    log_line(f"the bundle is {out / 'bundle'}; try: ifmmin-run FILE.npz -b {out / 'bundle'}")


main = entry_point(app, "python -m ifmmin.benchmarks.demo")


def run_demo(
    out: Path, recipe_name: str, overrides: Sequence[str], repeats: int
) -> dict[Pattern, DemoRow]:
    """Train, export, predict the test part with the runtime, and time it."""
    recipe = load_recipe(recipe_name, overrides)
    log_line("1/4 drawing the corpus")
    corpus = load_corpus(recipe.corpus, fold=_FOLD)
    log_line("2/4 training, stage 1 with everything present, stage 2 with modalities missing")
    fit(recipe, corpus, fold=_FOLD, seed=0, out=out / "run", overwrite=True)
    log_line("3/4 exporting graphs per pattern, each proven against the network")
    checkpoint, bundle = out / "run" / CHECKPOINT_NAME, out / "bundle"
    export_bundle(checkpoint, ALL_PATTERNS, bundle, overwrite=True)
    log_line("4/4 predicting the test part under every pattern, then timing")
    reached = measure_bundle(bundle, corpus)
    network, _ = load_checkpoint(checkpoint)
    latency = {row.pattern: row for row in compare_latency(bundle, network, repeats=repeats)}
    opened = Bundle(bundle)
    parity = {p: opened.entry(p).parity["max_difference"] for p in ALL_PATTERNS}
    return {p: DemoRow(reached[p], corpus.possible[p], latency[p], parity[p]) for p in ALL_PATTERNS}


def measure_bundle(bundle: Path, corpus: Corpus) -> dict[Pattern, Metrics]:
    """Metrics of the runtime's answers on the test part, under every pattern of the bundle."""
    predictor = Predictor(bundle, backend="onnxruntime-cpu", threads=2)
    utterances = corpus.parts["test"]
    labels = np.array([u.label for u in utterances])
    metrics = {}
    with progress("predict", len(predictor.patterns)) as advance:
        for pattern in predictor.patterns:
            answers = [predictor.predict(u.features, pattern=pattern) for u in utterances]
            metrics[pattern] = measure(np.stack([a.logits for a in answers]), labels)
            advance(str(pattern))
    return metrics


def print_rows(rows: dict[Pattern, DemoRow]) -> None:
    """The table of the README's first screen."""
    headers = ["pattern", "WA", "UA", "possible", "p50 us", "p99 us"]
    headers += ["monolith p50", "p99", "ratio", "parity"]
    table = []
    for pattern, row in rows.items():
        times = (row.latency.ours.p50, row.latency.ours.p99)
        peer = (row.latency.monolith.p50, row.latency.monolith.p99)
        table.append(
            [
                str(pattern),
                f"{row.reached.wa:.3f}",
                f"{row.reached.ua:.3f}",
                f"{row.possible:.3f}",
                *(f"{seconds * 1e6:.0f}" for seconds in (*times, *peer)),
                f"{row.latency.ratio:.2f}x",
                f"{row.parity:.0e}",
            ]
        )
    print_table(headers, table)
    noise = max(row.latency.noise for row in rows.values())
    write(
        "\npossible: accuracy of the Bayes rule on the same utterances. Times: one utterance, one "
        f"thread,\n{' + '.join(map(str, ORDINARY.values()))} frames. monolith: the same weights "
        "exported once, zeros for what is missing.\n"
        f"Two sessions of one graph differed by up to {noise:.0%} in this run; smaller "
        "differences mean nothing."
    )


if __name__ == "__main__":
    sys.exit(main())
