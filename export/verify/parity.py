"""Parity of a graph with its network: comparison, limits, and the gate that refuses a graph.

Limits differ for probes that the export did not see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifmmin.runtime.bundle import GraphEntry
from ifmmin.runtime.console import markdown_table
from ifmmin.runtime.errors import InputError, ParityError
from ifmmin.runtime.prediction import softmax

TOLERANCE = 1e-4
"""Largest difference of a logit that a float32 graph may show; 2e-5 is typical."""
ROUNDING = 5e-6
"""The same as a share of a probe's largest logit, where that is more: float32 knows no better.
It matters above logits of 20, as where a pooling sums over long inputs."""


@dataclass(frozen=True)
class Comparison:
    """A graph against its network in float64, over some probes."""

    max_difference: float
    """Largest absolute difference of a logit."""
    mean_difference: float
    """Mean absolute difference of a logit."""
    excess: float
    """Largest difference of a logit over what float32 is allowed for its probe: TOLERANCE, or
    ROUNDING of the probe's largest logit. At most 1 passes as float32."""
    log_probability_max: float
    """Largest absolute difference of a log-probability, in nats."""
    log_probability_mean: float
    """Mean absolute difference of a log-probability, in nats."""
    probability_max: float
    """Largest absolute difference of a probability."""
    agreement: float
    """Share of probes with the same winning class."""
    probes: int
    """Inputs that were compared."""
    classes: int
    """Distinct winning classes among the probes: 1 would make the comparison weak."""
    spread: float
    """Standard deviation of the network's logits over the probes, mean over classes."""
    worst: str
    """Lengths of the probe with the largest difference of a logit."""

    def __str__(self) -> str:
        return (
            f"largest difference of a logit {self.max_difference:.2e} at {self.worst} "
            f"({self.excess:.1f} times what float32 is allowed: {TOLERANCE:.0e}, or {ROUNDING:.0e} "
            f"of the largest logit), of a probability {self.probability_max:.2e}; "
            f"{self.agreement:.1%} of {self.probes} answers agree"
        )

    def as_record(self) -> dict[str, Any]:
        """As the manifest stores it."""
        return dataclasses.asdict(self)


def compare(
    found: NDArray[np.floating], truth: NDArray[np.float64], names: Sequence[str]
) -> Comparison:
    """Logits (N, C) of a graph against the network's; names: of the N probes, for the worst one.

    A graph that refuses a length it should take, or answers with what is not a number, is as wrong
    as one that answers wrongly: such rows hold infinities.
    """
    finite = np.asarray(np.isfinite(found).all(axis=1))
    kept = np.where(finite[:, None], found, 0.0)
    difference = np.where(finite[:, None], np.abs(kept - truth), np.inf)
    allowed = np.maximum(TOLERANCE, ROUNDING * np.abs(truth).max(axis=1))
    probabilities = np.abs(softmax(kept) - softmax(truth))
    logs = np.abs(_log_softmax(kept) - _log_softmax(truth))
    probabilities[~finite], logs[~finite] = 1.0, np.inf
    same = (found.argmax(axis=1) == truth.argmax(axis=1)) & finite
    return Comparison(
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        excess=float((difference.max(axis=1) / allowed).max()),
        log_probability_max=float(logs.max()),
        log_probability_mean=float(logs.mean()),
        probability_max=float(probabilities.max()),
        agreement=float(same.mean()),
        probes=len(truth),
        classes=len(np.unique(truth.argmax(axis=1))),
        spread=float(truth.std(axis=0).mean()),
        worst=names[int(difference.max(axis=1).argmax())],
    )


def _log_softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


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


def find_violations(
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


_MARGIN = 4.0
"""Times the largest difference at export: other draws have another largest one, up to 3.3 times as
large on trained networks, and export chose what it quantised by the draws it had."""
_AGREEMENT = 0.03
"""Share of answers that may be lost beyond that: of 131 probes some lie between two classes."""


def fresh_limits(entry: GraphEntry) -> Limits:
    """What a graph may lose on probes that export did not see.

    In float32 what is allowed at export, unless it was exported with more. What has fewer bits is
    held to what export measured, which may also be more than the defaults.
    """
    limits = DEFAULTS[entry.precision]
    if limits.logits is not None:
        if _figure(entry, "excess", 0.0) > 1.0:
            return replace(limits, logits=_MARGIN * _figure(entry, "max_difference", 0.0))
        return limits
    probabilities = _MARGIN * _figure(entry, "probability_max", 0.0)
    agreement = min(limits.agreement, _figure(entry, "agreement", 1.0)) - _AGREEMENT
    return replace(
        limits, probabilities=max(limits.probabilities or 0.0, probabilities), agreement=agreement
    )


def _figure(entry: GraphEntry, name: str, otherwise: float) -> float:
    """What export measured; JSON has null for what was not finite."""
    value = entry.parity.get(name)
    return float(value) if isinstance(value, int | float) else otherwise
