"""The gate: how much a graph may lose against its network, and what happens if it loses more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ifmmin.export.compare import TOLERANCE, Comparison
from ifmmin.runtime.console import markdown_table
from ifmmin.runtime.errors import InputError, ParityError

FIGURES = ("logits", "probabilities", "agreement", "ua")


@dataclass(frozen=True)
class Limits:
    """What a graph may lose; None: not looked at."""

    logits: float | None = None
    """Largest difference of a logit. At the default, float32's own rounding is allowed for."""
    probabilities: float | None = None
    """Largest difference of a probability."""
    agreement: float = 0.99
    """Least share of answers with the same winning class."""
    ua: float = 0.005
    """Loss of unweighted accuracy on a corpus."""


DEFAULTS: Mapping[str, Limits] = {
    "fp32": Limits(logits=TOLERANCE),
    "fp16": Limits(probabilities=1e-3),
    "int8": Limits(probabilities=2e-2),
    "int8-qdq": Limits(probabilities=2e-2),
}


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of a graph and of its network on the test part of a corpus."""

    corpus: str
    fold: int
    utterances: int
    wa: float
    ua: float
    ece: float
    network_wa: float
    network_ua: float
    network_ece: float
    agreement: float
    """Share of utterances with the same winning class."""

    @property
    def ua_loss(self) -> float:
        """Unweighted accuracy that the graph loses; negative where it gains."""
        return self.network_ua - self.ua


@dataclass(frozen=True)
class Violation:
    """A figure beyond its limit."""

    graph: str
    figure: str
    got: float
    allowed: float


def judge(
    graph: str, comparison: Comparison, evaluation: Evaluation | None, limits: Limits
) -> list[Violation]:
    """What a graph loses beyond the limits."""
    found = []
    if limits.logits is not None and comparison.excess > 1.0:
        got = comparison.max_difference
        if limits.logits == TOLERANCE or got > limits.logits:
            found.append(Violation(graph, "logits", got, limits.logits))
    if limits.probabilities is not None and comparison.probability_max > limits.probabilities:
        got = comparison.probability_max
        found.append(Violation(graph, "probabilities", got, limits.probabilities))
    if comparison.agreement < limits.agreement:
        found.append(Violation(graph, "agreement", comparison.agreement, limits.agreement))
    if evaluation is not None and evaluation.ua_loss > limits.ua + 1e-12:
        found.append(Violation(graph, "ua", evaluation.ua_loss, limits.ua))
    return found


def require(violations: Sequence[Violation]) -> None:
    """ParityError with a table where there are any."""
    if not violations:
        return
    rows = [[v.graph, v.figure, f"{v.got:.2g}", f"{v.allowed:.2g}"] for v in violations]
    table = markdown_table(["graph", "figure", "measured", "allowed"], rows)
    allow = " ".join(
        f"--allow-loss {figure}={_enough(violations, figure)}"
        for figure in FIGURES
        if any(v.figure == figure for v in violations)
    )
    count = len({v.graph for v in violations})
    raise ParityError(
        f"{count} {'graph loses' if count == 1 else 'graphs lose'} more than is allowed; nothing "
        f"was written. Leave them out, or accept it with {allow}",
        table=table,
    )


def parse_losses(texts: Sequence[str]) -> dict[str, float]:
    """`FIGURE=NUMBER` as given with --allow-loss; InputError says what is wanted."""
    losses = {}
    for text in texts:
        figure, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if figure not in FIGURES or not 0.0 <= value < float("inf"):
            raise InputError(
                f"--allow-loss: got {text!r}, wanted FIGURE=NUMBER with one of "
                f"{', '.join(FIGURES)} and the number that you accept, e.g. probabilities=0.05"
            )
        losses[figure] = value
    return losses


def allowed(precision: str, losses: Mapping[str, float]) -> Limits:
    """The limits of a precision with what the user accepts; never tighter than the default."""
    limits = DEFAULTS[precision]
    changes = {}
    for figure, value in losses.items():
        standing = getattr(limits, figure)
        if standing is None:
            continue
        changes[figure] = min(standing, value) if figure == "agreement" else max(standing, value)
    return replace(limits, **changes)


def _enough(violations: Sequence[Violation], figure: str) -> str:
    """The number that would have let everything pass, rounded to the side that does."""
    got = [v.got for v in violations if v.figure == figure]
    if figure == "agreement":
        return f"{int(min(got) * 1000) / 1000:g}"
    return f"{max(got) * 1.005:.3g}"
