"""`make pipeline`: train on the synthetic corpus, export, run, and print what came out.

Everything goes through the interfaces that a user has: a recipe, a checkpoint, a bundle, Predictor.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ifmmin.export import export_bundle
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.cli.app import command, entry_point, new_app
from ifmmin.runtime.console import log_line, print_table, progress, write
from ifmmin.runtime.errors import ParityError
from ifmmin.runtime.modality import ALL_PATTERNS, Pattern
from ifmmin.runtime.predictor import Predictor
from ifmmin.train.data import load_corpus
from ifmmin.train.data.corpus import Corpus
from ifmmin.train.metrics import Metrics, measure
from ifmmin.train.recipe import load_recipe
from ifmmin.train.trainer import CHECKPOINT_NAME, fit

from .record import CONTROL, OURS
from .scenarios.bench import Bench
from .scenarios.plan import MONOLITH, ORDINARY, Plan
from .timing import Summary, summarise

_FOLD = 1
Latency = dict[str, Summary]
"""Figures of ours, of its A/A control and of the monolith."""


def measure_latency(bundle: Path, checkpoint: Path, repeats: int) -> dict[Pattern, Latency]:
    """Time `Predictor.predict` and a bare call of the monolith on an ordinary utterance.

    Ours includes validation and the softmax. Raises ParityError where a contender answers wrongly,
    since a fast wrong answer is worth nothing.
    """
    bench = Bench(Plan(bundle=bundle, checkpoint=checkpoint, rounds=repeats), lambda line: None)
    found = {}
    for pattern in bench.patterns:
        features = bench.ordinary(pattern)
        # Pattern by pattern: a session that took part in every pattern would have warmer caches.
        calls = {c.name: c.prepared(features, ORDINARY) for c in bench.contenders(pattern, 1)}
        if bench.refused:
            raise ParityError("; ".join(bench.refused.values()))
        timings = bench.time(calls)
        found[pattern] = {name: summarise(seconds) for name, seconds in timings.items()}
    return found


@dataclass(frozen=True)
class PipelineRow:
    """What the pipeline found for one pattern."""

    reached: Metrics
    """Of the exported graph's answers on the test part."""
    possible: float
    """Accuracy of the Bayes rule on the same utterances."""
    latency: Latency
    parity: float
    """Largest difference of a logit to the network, from the export."""


app = new_app()


@command(app, "python -m ifmmin.benchmarks.pipeline -o pipeline")
def pipeline(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for run and bundle.")] = Path(
        "pipeline"
    ),
    recipe: Annotated[str, typer.Option(help="Recipe of a synthetic corpus.")] = "synthetic",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As in ifmmin-train.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Timed calls per pattern.")] = 300,
) -> None:
    """Train, export and run on the synthetic corpus."""
    print_rows(run_pipeline(out, recipe, overrides or (), repeats))
    log_line(f"the checkpoint is {out / 'run' / CHECKPOINT_NAME}")
    log_line(f"the bundle is {out / 'bundle'}; try: ifmmin-run FILE.npz -b {out / 'bundle'}")


main = entry_point(app, "python -m ifmmin.benchmarks.pipeline")


def run_pipeline(
    out: Path, recipe_name: str, overrides: Sequence[str], repeats: int
) -> dict[Pattern, PipelineRow]:
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
    latency = measure_latency(bundle, checkpoint, repeats)
    opened = Bundle(bundle)
    parity = {p: opened.entry(p).parity["max_difference"] for p in ALL_PATTERNS}
    return {
        p: PipelineRow(reached[p], corpus.possible[p], latency[p], parity[p]) for p in ALL_PATTERNS
    }


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


def print_rows(rows: dict[Pattern, PipelineRow]) -> None:
    """The table that `make pipeline` ends with."""
    headers = ["pattern", "WA", "UA", "possible", "p50 us", "p99 us"]
    headers += ["monolith p50", "p99", "ratio", "parity"]
    table = []
    for pattern, row in rows.items():
        ours, peer = row.latency[OURS], row.latency[MONOLITH]
        shares = (row.reached.wa, row.reached.ua, row.possible)
        table.append(
            [
                str(pattern),
                *(f"{share:.3f}" for share in shares),
                *(f"{seconds * 1e6:.0f}" for seconds in (ours.p50, ours.p99, peer.p50, peer.p99)),
                f"{peer.p50 / ours.p50:.2f}x",
                f"{row.parity:.0e}",
            ]
        )
    print_table(headers, table)
    noise = max(abs(r.latency[CONTROL].p50 / r.latency[OURS].p50 - 1) for r in rows.values())
    write(
        "\npossible: accuracy of the Bayes rule on the same utterances. Times: one utterance, one "
        f"thread,\n{' + '.join(map(str, ORDINARY.values()))} frames. monolith: the same weights "
        "exported once, zeros for what is missing.\n"
        f"Two sessions of one graph differed by up to {noise:.0%} in this run; smaller "
        "differences mean nothing."
    )


if __name__ == "__main__":
    sys.exit(main())
