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
from ifmmin.runtime.bundle.verify import FLOAT32_LOSSES, PROBABILITY, ROUNDING, TOLERANCE, recorded
from ifmmin.runtime.console import markdown_table
from ifmmin.runtime.errors import InputError, ParityError
from ifmmin.runtime.prediction import allowed_differences, largest_differences, softmax

UNDECIDED = 0.05
"""Lead of a probability below which two classes are as good as equal: any rounding turns them."""


@dataclass(frozen=True)
class Comparison:
    """A graph against its network in float64, over some probes."""

    max_difference: float
    """Largest absolute difference of a logit."""
    mean_difference: float
    """Mean absolute difference of a logit."""
    excess: float
    """Largest difference of a logit over what float32 is allowed for its probe, at most 1 passes:
    TOLERANCE, ROUNDING of the probe's largest logit, or FLOAT32_LOSSES times `float32_loss`."""
    log_probability_max: float
    """Largest absolute difference of a log-probability, in nats."""
    log_probability_mean: float
    """Mean absolute difference of a log-probability, in nats."""
    probability_max: float
    """Largest absolute difference of a probability."""
    agreement: float
    """Share of probes with the same winning class, of those on which the network is decided."""
    probes: int
    """Inputs that were compared."""
    classes: int
    """Distinct winning classes among the probes: 1 would make the comparison weak."""
    spread: float
    """Standard deviation of the network's logits over the probes, mean over classes."""
    worst: str
    """Lengths of the probe with the largest difference of a logit."""
    float32_loss: float = 0.0
    """Largest difference of a logit between the network in float32 and in float64."""
    unanswered: str = ""
    """Why a probe got no answer, the first of them; such a graph passes nowhere."""

    def __str__(self) -> str:
        if self.unanswered:
            return f"no answer: {self.unanswered}"
        return (
            f"largest difference of a logit {self.max_difference:.2e} at {self.worst} "
            f"({self.excess:.1f} times what float32 is allowed), of a probability "
            f"{self.probability_max:.2e}; {self.agreement:.1%} of decided answers agree"
        )

    def as_record(self) -> dict[str, Any]:
        """As the manifest stores it."""
        return dataclasses.asdict(self)


def compare(
    found: NDArray[np.floating],
    truth: NDArray[np.float64],
    names: Sequence[str],
    *,
    float32_loss: float = 0.0,
    unanswered: str = "",
) -> Comparison:
    """Logits (N, C) of a graph against the network's; names: of the N probes, for the worst one.

    A graph that refuses a length it should take, or answers with what is not a number, is as wrong
    as can be: such rows are not finite. unanswered: why the first of them was refused.
    """
    finite = np.asarray(np.isfinite(found).all(axis=1))
    kept = np.where(finite[:, None], found, 0.0)
    rows = largest_differences(found, truth)
    absolute = max(TOLERANCE, FLOAT32_LOSSES * float32_loss)
    ours, theirs = softmax(kept), softmax(truth)
    probabilities, logs = np.abs(ours - theirs), np.abs(_log_softmax(kept) - _log_softmax(truth))
    probabilities[~finite], logs[~finite] = 1.0, np.inf
    wanted = truth.argmax(axis=1)
    second, first = np.sort(theirs, axis=1)[:, -2:].T
    counted = (first - second >= UNDECIDED) | ~finite
    same = ((kept.argmax(axis=1) == wanted) & finite)[counted]
    worst = int(rows.argmax())
    if not unanswered and not finite.all():
        unanswered = f"{names[worst]}: its logits are not finite"
    return Comparison(
        max_difference=float(rows.max()),
        mean_difference=float(np.where(finite[:, None], np.abs(kept - truth), np.inf).mean()),
        excess=float((rows / allowed_differences(truth, absolute, ROUNDING["fp32"])).max()),
        log_probability_max=float(logs.max()),
        log_probability_mean=float(logs.mean()),
        probability_max=float(probabilities.max()),
        agreement=float(same.mean()) if len(same) else 1.0,
        probes=len(truth),
        classes=len(np.unique(wanted)),
        spread=float(truth.std(axis=0).mean()),
        worst=names[worst],
        float32_loss=float32_loss,
        unanswered=unanswered,
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
    """Least share of decided answers with the same winning class."""
    ua: float = 0.005
    """Loss of unweighted accuracy on a corpus."""


DEFAULTS: Mapping[str, Limits] = {
    "fp32": Limits(logits=TOLERANCE),
    "fp16": Limits(probabilities=2e-2),
    "int8": Limits(probabilities=5e-2),
    "int8-qdq": Limits(probabilities=5e-2),
}
"""Of what a graph may lose. In fewer bits it is answers that count: no probability may move so far
that a decided answer turns. Sound networks lose .0002 to .008 in float16 and up to .04 in 8 bits;
wrong graphs .3 and more."""


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
    reason: str = ""
    """Why there is no answer at all, which nobody can accept."""


def find_violations(
    graph: str, comparison: Comparison, evaluation: Evaluation | None, limits: Limits
) -> list[Violation]:
    """What a graph loses beyond the limits."""
    if comparison.unanswered:
        return [Violation(graph, "answers", np.inf, 0.0, comparison.unanswered)]
    found = []
    if limits.logits is not None and comparison.excess > 1.0:
        got = comparison.max_difference
        if limits.logits == TOLERANCE or got > limits.logits:
            most = max(limits.logits, FLOAT32_LOSSES * comparison.float32_loss)
            found.append(Violation(graph, "logits", got, most))
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
    silent = [v for v in violations if v.reason]
    if silent:
        first, count = silent[0], len({v.graph for v in silent})
        raise ParityError(
            f"{first.graph} does not answer {first.reason}"
            + (f"; nor do {count - 1} more graphs" if count > 1 else "")
            + "; nothing was written. Leave it out; where features are too large for its bits, "
            "export fp32 or train with standardisation"
        )
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


_FLOORS: Mapping[str, float] = {"fp16": 1e-3, "int8": PROBABILITY, "int8-qdq": PROBABILITY}
"""Of a probability, where what was measured is less: rounding is luck."""


def fresh_limits(entry: GraphEntry) -> Limits:
    """What a graph may lose on probes that export did not see.

    In float32 what is allowed at export, unless it was exported with more. What has fewer bits is
    held to what export measured, which may be more or less than the defaults.
    """
    limits = DEFAULTS[entry.precision]
    if limits.logits is not None:
        if recorded(entry, "excess") > 1.0:
            return replace(limits, logits=_MARGIN * recorded(entry, "max_difference"))
        return limits
    probabilities = max(_FLOORS[entry.precision], _MARGIN * recorded(entry, "probability_max"))
    agreement = min(limits.agreement, recorded(entry, "agreement", 1.0)) - _AGREEMENT
    return replace(limits, probabilities=probabilities, agreement=agreement)
