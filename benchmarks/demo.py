"""`make demo`: train on the synthetic corpus, export, run, and print what came out.

Everything goes through the interfaces that a user has: a recipe, a checkpoint, a bundle, Predictor.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ifmmin.benchmarks.side_by_side import Comparison, compare_latency
from ifmmin.export import export_bundle
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.command import command, parser
from ifmmin.runtime.console import print_table, progress, say, write
from ifmmin.runtime.modality import ALL_PATTERNS, Pattern
from ifmmin.runtime.predictor import Predictor
from ifmmin.train.checkpoint import load_checkpoint
from ifmmin.train.corpora import load_corpus
from ifmmin.train.corpus import Corpus
from ifmmin.train.metrics import Metrics, measure
from ifmmin.train.recipe import load_recipe
from ifmmin.train.run import CHECKPOINT_NAME, fit

_FOLD = 1


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


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    cli = parser("ifmmin.benchmarks.demo", "Train, export and run on the synthetic corpus.")
    cli.add_argument("--out", type=Path, default=Path("demo"), help="directory for run and bundle")
    cli.add_argument("--recipe", default="synthetic", help="recipe of a synthetic corpus")
    cli.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    cli.add_argument("--repeats", type=int, default=300, help="timed calls per pattern")
    options = cli.parse_args(arguments)
    rows = run_demo(options.out, options.recipe, options.overrides, options.repeats)
    print_rows(rows)
    say(f"the checkpoint is {options.out / 'run' / CHECKPOINT_NAME}")
    say(
        f"the bundle is {options.out / 'bundle'}; try: ifmmin-run {options.out / 'bundle'} FILE.npz"
    )
    return 0


def run_demo(
    out: Path, recipe_name: str, overrides: Sequence[str], repeats: int
) -> dict[Pattern, DemoRow]:
    """Train, export, predict the test part with the runtime, and time it."""
    recipe = load_recipe(recipe_name, overrides)
    say("1/4 drawing the corpus")
    corpus = load_corpus(recipe.corpus, fold=_FOLD)
    say("2/4 training, stage 1 with everything present, stage 2 with modalities missing")
    fit(recipe, corpus, fold=_FOLD, seed=0, out=out / "run", overwrite=True)
    say("3/4 exporting graphs per pattern, each proven against the network")
    checkpoint, bundle = out / "run" / CHECKPOINT_NAME, out / "bundle"
    export_bundle(checkpoint, ALL_PATTERNS, bundle, overwrite=True)
    say("4/4 predicting the test part under every pattern, then timing")
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
        "thread,\n45 + 50 + 22 frames. monolith: the same weights exported once, zeros for what is "
        f"missing.\nTwo sessions of one graph differed by up to {noise:.0%} in this run; smaller "
        "differences mean nothing."
    )


if __name__ == "__main__":
    sys.exit(main())
