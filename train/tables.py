"""Tables that `ifmmin-train` prints: figures of merit, curves, sweeps, and what a corpus holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.console import log_line, print_table
from ifmmin.runtime.modality import Modality, Pattern, incomplete_patterns

from .data.corpus import PARTS, Corpus, Utterance
from .evaluate import Scores, mean_over_incomplete, measure_pooled, measure_scores
from .metrics import SENTIMENT, Scale, shown
from .sweep.curves import FIGURES as CURVE_FIGURES
from .sweep.curves import MEAN as MEAN_ROW
from .sweep.curves import POOLED as POOLED_ROW
from .sweep.curves import TITLES, Curve, interval
from .sweep.report import Findings
from .sweep.results import POOLED, mean_name, pooled_name, spreads

FIGURES = ("wa", "ua", "f1", "ece")
"""Columns, in the order in which papers print them."""


def print_metrics(
    scores: Mapping[Pattern, Scores],
    labels: NDArray[np.int64],
    scale: Scale | None = None,
    possible: Mapping[Pattern, float] | None = None,
) -> None:
    """A row per pattern, their mean and all of them pooled, of the logits for utterances with
    `labels` (N,); `possible`: the Bayes rule's accuracy, where known.

    Figures of sentiment that nothing could be measured of are told below, with the reason.
    """
    metrics = measure_scores(scores, labels, scale)
    sentiment = [name for name in SENTIMENT if any(name in m.sentiment for m in metrics.values())]
    measured = [
        name for name in sentiment if any(not math.isnan(m.figure(name)) for m in metrics.values())
    ]
    names = [*FIGURES, *measured]
    headers = ["pattern", *(SENTIMENT.get(name, name.upper()) for name in names)]
    headers += ["possible"] if possible else []
    rows = []
    for pattern, value in metrics.items():
        row = [str(pattern), *(shown(value.figure(name)) for name in names)]
        rows.append([*row, *([f"{possible[pattern]:.3f}"] if possible else [])])
    means = [shown(mean_over_incomplete(dict(metrics), name)) for name in names]
    some = incomplete_patterns({m for pattern in metrics for m in pattern})
    left_out = [str(p) for p in some if math.isnan(metrics[p].wa)]
    title = f"mean without {', '.join(left_out)}" if left_out else mean_name(some)
    if len(metrics) > 1:
        rows.append([title, *means, *([""] if possible else [])])
        pooled = measure_pooled(scores, labels, scale)
        cells = [shown(pooled.figure(name)) for name in names]
        rows.append([pooled_name(some), *cells, *([""] if possible else [])])
    print_table(headers, rows)
    for name in sentiment:
        if name not in measured:
            whole = [*metrics.values()][-1]
            log_line(f"note: no {SENTIMENT[name]}: {whole.null_because[name]}")
    if len(metrics) > 1:
        log_line(f"{title}: of the rows; {pooled_name(some)}: {POOLED}")


def print_curve(curve: Curve) -> None:
    """A row per rate, and the area."""
    rows = [
        [
            point.name,
            *(interval(point.figures[POOLED_ROW][figure]) for figure in CURVE_FIGURES),
            *(shown(point.figures[MEAN_ROW][figure].value) for figure in CURVE_FIGURES),
        ]
        for point in curve.points
    ]
    rows.append(["area", *(interval(curve.areas[figure]) for figure in CURVE_FIGURES), "", "", ""])
    names = [figure.upper() for figure in CURVE_FIGURES]
    headers = ["share", *names, *(f"mean {name}" for name in names)]
    print_table(headers, rows, title=TITLES[curve.protocol])


def print_sweep(found: Findings) -> None:
    """A row per entry, a column per pattern, of the figure by which epochs are chosen."""
    figure = found.figures[0]
    rows = []
    for name, results in found.results.items():
        by_column = spreads(results, figure)
        rows.append([name, *(shown(spread.mean) for spread in by_column.values())])
    print_table([figure.upper(), *found.columns], rows)


def print_curves(curves: list[Curve], figure: str) -> None:
    """A row per entry, a column per rate, and the area."""
    headers = [figure.upper(), *(point.name for point in curves[0].points), "area"]
    rows = [
        [
            curve.entry,
            *(shown(point.figures[POOLED_ROW][figure].value) for point in curve.points),
            interval(curve.areas[figure]),
        ]
        for curve in curves
    ]
    print_table(headers, rows, title=f"pooled, {TITLES[curves[0].protocol]}")


def input_table(corpus: Corpus) -> tuple[list[str], list[list[str]]]:
    """Per modality: width, type, megabytes, frames, missing utterances."""
    every = [u for part in PARTS for u in corpus.parts[part]]
    headers = ["modality", "dim", "type", "MB", "frames", "median", "seconds", "missing"]
    return headers, [_input_row(corpus, every, m) for m in corpus.modalities]


def _input_row(corpus: Corpus, utterances: list[Utterance], modality: Modality) -> list[str]:
    arrays = [u.features[modality] for u in utterances if modality in u.features]
    lengths = np.array([len(x) for x in arrays if x.ndim] or [0])
    rate = corpus.features[modality].frame_rate
    median = float(np.median(lengths))
    return [
        str(modality),
        str(corpus.features[modality].dim),
        "/".join(sorted({str(x.dtype) for x in arrays})) or "-",
        f"{sum(x.nbytes for x in arrays) / 1e6:.1f}",
        f"{lengths.min()}-{lengths.max()}",
        f"{median:g}",
        f"{median / rate:.1f}" if rate else "-",
        f"{len(utterances) - len(arrays)} of {len(utterances)}",
    ]


def class_table(corpus: Corpus) -> tuple[list[str], list[list[str]]]:
    """Per part: utterances, of each class, and lacking each modality."""
    headers = ["part", "utterances", *corpus.labels, *(f"no {m}" for m in corpus.modalities)]
    rows = []
    for part in PARTS:
        utterances = corpus.parts[part]
        counts = Counter(u.label for u in utterances)
        shares = [
            f"{counts[c]} ({counts[c] / max(1, len(utterances)):.0%})"
            for c in range(len(corpus.labels))
        ]
        lacking = [str(sum(m not in u.features for u in utterances)) for m in corpus.modalities]
        rows.append([part, str(len(utterances)), *shares, *lacking])
    return headers, rows
