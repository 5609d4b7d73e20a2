"""One input after the other: read, predicted, written down; a broken one stops no other."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ifmmin.runtime.console import Advance, say
from ifmmin.runtime.errors import IfmminError, InputError
from ifmmin.runtime.modality import Pattern
from ifmmin.runtime.prediction import Prediction
from ifmmin.runtime.predictor import Predictor
from ifmmin.runtime.render import Answer, Sheet
from ifmmin.runtime.sources import Clip, Item, Source
from ifmmin.runtime.validate import Policy, examine


@dataclass(frozen=True)
class Rules:
    """How inputs become answers."""

    pattern: Pattern | None = None
    """Modalities to use; None: what is present."""
    threshold: float = 0.0
    """Probability below which the winner is not named."""
    top_k: int = 0
    """Classes to rank."""
    policy: Policy = field(default_factory=Policy)
    """The predictor's."""


@dataclass
class Tally:
    """What became of the inputs."""

    failed: int = 0
    seconds: array[float] = field(default_factory=lambda: array("d"))
    """Of each answer."""

    @property
    def total(self) -> int:
        """Inputs that were read or could not be."""
        return self.failed + len(self.seconds)

    def latency(self) -> str:
        """Percentiles over the answers, for people."""
        p50, p90, p99 = np.percentile(self.seconds, (50, 90, 99)) * 1e3
        return (
            f"latency of {len(self.seconds)} answers: "
            f"p50 {p50:.3f} ms, p90 {p90:.3f} ms, p99 {p99:.3f} ms"
        )


def answer_all(
    predictor: Predictor, source: Source, rules: Rules, sheets: Sequence[Sheet], advance: Advance
) -> Tally:
    """Answer every input on every sheet, not closing them; broken ones are named on standard error.

    Raises InputError for a broken input when it is the only one, and when none has an answer.
    """
    tally = Tally()
    for item in source.items():
        try:
            answer = _answer(predictor, item, rules)
        except _Unanswered as error:
            tally.failed += 1
            for sheet in sheets:
                sheet.fail(_printable(error.name), _printable(str(error)))
            if source.count == 1:
                raise InputError(str(error)) from error
            say(f"error: {error}")
        else:
            tally.seconds.append(answer.prediction.seconds)
            for sheet in sheets:
                sheet.add(answer)
        advance("")
    _require_some(tally)
    return tally


class _Unanswered(Exception):  # noqa: N818 - an outcome
    """One input has no answer; the message is one line that begins with where it is."""

    def __init__(self, item: Item, name: str, error: IfmminError) -> None:
        super().__init__(f"{item.where}: {' '.join(str(error).split())}")
        self.name = name


def _answer(predictor: Predictor, item: Item, rules: Rules) -> Answer:
    try:
        clip = item.read()
    except InputError as error:
        raise _Unanswered(item, item.name, error) from error
    try:
        prediction = predictor.predict(clip.utterance, pattern=rules.pattern, quality=clip.quality)
    except IfmminError as error:
        if isinstance(error, InputError) or not _has_graph(predictor, clip, rules):
            raise _Unanswered(item, clip.name, error) from error
        raise
    sure = float(prediction.probabilities.max()) >= rules.threshold
    return Answer(
        _printable(clip.name),
        prediction,
        prediction.label if sure else None,
        _ranking(predictor.labels, prediction, rules.top_k),
    )


def _has_graph(predictor: Predictor, clip: Clip, rules: Rules) -> bool:
    """Whether the bundle can answer such an input, or none at all: then it is at fault itself."""
    if not predictor.patterns:
        return True
    specs = predictor.bundle.manifest.modalities
    found = examine(clip.utterance, specs, rules.policy, clip.quality, only=rules.pattern)
    return Pattern.of(found.features) in predictor.patterns


def _ranking(labels: Sequence[str], prediction: Prediction, top_k: int) -> list[tuple[str, float]]:
    shares: list[float] = prediction.probabilities.tolist()
    ranked = sorted(zip(labels, shares, strict=True), key=lambda pair: -pair[1])
    return ranked[:top_k]


def _printable(text: str) -> str:
    """`text` without what UTF-8 cannot hold, such as names of files in another encoding."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _require_some(tally: Tally) -> None:
    if not tally.total:
        raise InputError("got no input; standard input held no line")
    if tally.failed == tally.total:
        raise InputError(f"none of the {tally.total} inputs could be answered")
    if tally.failed:
        say(f"{tally.failed} of {tally.total} inputs could not be answered")
