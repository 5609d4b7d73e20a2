"""Answers as a table, as JSON lines or as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

from ifmmin.runtime.console import print_table, write
from ifmmin.runtime.predictor import Prediction

FORMATS = ("table", "json", "csv")


@dataclass(frozen=True)
class Answer:
    """A prediction with the name of its input."""

    name: str
    prediction: Prediction


def render(answers: Sequence[Answer], labels: Sequence[str], layout: str) -> None:
    """Write the answers to standard output in one of FORMATS."""
    {"table": _table, "json": _json, "csv": _csv}[layout](answers, labels)


def _table(answers: Sequence[Answer], labels: Sequence[str]) -> None:
    rows = [
        [
            answer.name,
            str(answer.prediction.pattern),
            answer.prediction.label,
            *(f"{p:.3f}" for p in answer.prediction.probabilities),
            f"{answer.prediction.seconds * 1e3:.2f}",
        ]
        for answer in answers
    ]
    backend = answers[0].prediction.backend
    print_table(["input", "pattern", "emotion", *labels, "ms"], rows, title=f"backend: {backend}")


def _json(answers: Sequence[Answer], labels: Sequence[str]) -> None:
    for answer in answers:
        prediction = answer.prediction
        content = {
            "input": answer.name,
            "pattern": str(prediction.pattern),
            "label": prediction.label,
            "probabilities": dict(zip(labels, prediction.probabilities.tolist(), strict=True)),
            "logits": prediction.logits.tolist(),
            "backend": prediction.backend,
            "seconds": prediction.seconds,
        }
        write(json.dumps(content, ensure_ascii=False))


def _csv(answers: Sequence[Answer], labels: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["input", "pattern", "label", *labels, "backend", "seconds"])
    for answer in answers:
        prediction = answer.prediction
        writer.writerow(
            [
                answer.name,
                prediction.pattern,
                prediction.label,
                *prediction.probabilities.tolist(),
                prediction.backend,
                prediction.seconds,
            ]
        )
    write(text.getvalue().rstrip("\n"))
