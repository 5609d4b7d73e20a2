"""Command `ifmmin-run`: the emotion of utterances, by a bundle, without torch."""

from __future__ import annotations

import argparse
import sys
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..backends import BACKENDS, BackendOptions
from ..console import Advance, command, markdown_table, parser, print_table, progress, say, write
from ..errors import IfmminError, InputError
from ..modality import Pattern
from ..prediction import Prediction
from ..predictor import ON_EMPTY, Predictor
from ..sessions import Trial
from ..validate import NAN_FRAMES, Policy, validate
from .options import add_stream_arguments, numbers_by_modality, require_no_contradiction
from .readers import LazySample, Reader, Sample, find_inputs
from .writers import FORMATS, LAYOUT_OF, Answer, Write, Writer, make_writer, saved_lines


def print_explanation(predictor: Predictor) -> None:
    """One row per pattern and candidate; then why some cannot run, each reason once."""
    tuner = predictor.explain()
    rows = [
        [
            str(trial.pattern),
            trial.candidate.backend,
            trial.candidate.precision,
            str(trial.candidate.threads or ""),
            trial.outcome,
            "" if trial.seconds is None else f"{trial.seconds * 1e6:.0f}",
        ]
        for trial in tuner
        if trial.outcome not in ("unavailable", "absent")
    ]
    print_table(["pattern", "backend", "precision", "threads", "outcome", "p50 us"], rows)
    reasons = _reasons(tuner)
    if reasons:
        print_table(["backend", "why it is not taken"], reasons)


def _reasons(tuner: Sequence[Trial]) -> list[list[str]]:
    found = {
        (trial.candidate.backend, trial.detail): None
        for trial in tuner
        if trial.outcome in ("unavailable", "refused")
    }
    return [[backend, detail] for backend, detail in found]


@dataclass(frozen=True)
class RunOptions:
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
    predictor: Predictor,
    reader: Reader,
    rules: RunOptions,
    writers: Sequence[Writer],
    advance: Advance,
) -> Tally:
    """Answer every input with every writer, not closing them; broken ones go to standard error.

    Raises InputError for a broken input when it is the only one, and when none has an answer.
    """
    tally = Tally()
    for lazy in reader.items():
        try:
            answer = _answer(predictor, lazy, rules)
        except _Unanswered as error:
            tally.failed += 1
            for writer in writers:
                writer.fail(_printable(error.name), _printable(str(error)))
            if reader.count == 1:
                raise InputError(str(error)) from error
            say(f"error: {error}")
        else:
            tally.seconds.append(answer.prediction.seconds)
            for writer in writers:
                writer.add(answer)
        advance("")
    _require_some(tally)
    return tally


class _Unanswered(Exception):  # noqa: N818 - an outcome
    """One input has no answer; the message is one line that begins with where it is."""

    def __init__(self, lazy: LazySample, name: str, error: IfmminError) -> None:
        super().__init__(f"{lazy.where}: {' '.join(str(error).split())}")
        self.name = name


def _answer(predictor: Predictor, lazy: LazySample, rules: RunOptions) -> Answer:
    try:
        sample = lazy.read()
    except InputError as error:
        raise _Unanswered(lazy, lazy.name, error) from error
    try:
        prediction = predictor.predict(
            sample.utterance, pattern=rules.pattern, quality=sample.quality
        )
    except IfmminError as error:
        if isinstance(error, InputError) or not _has_graph(predictor, sample, rules):
            raise _Unanswered(lazy, sample.name, error) from error
        raise
    sure = float(prediction.probabilities.max()) >= rules.threshold
    return Answer(
        _printable(sample.name),
        prediction,
        prediction.label if sure else None,
        _ranking(predictor.labels, prediction, rules.top_k),
    )


def _has_graph(predictor: Predictor, sample: Sample, rules: RunOptions) -> bool:
    """Whether the bundle can answer such an input, or none at all: then it is at fault itself."""
    if not predictor.patterns:
        return True
    specs = predictor.bundle.manifest.modalities
    found = validate(sample.utterance, specs, rules.policy, sample.quality, only=rules.pattern)
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


_BAR_FROM = 50
"""Number of inputs from which progress is shown."""
EXIT_SOME_FAILED = 1


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, or 1 when some inputs have no answer."""
    options = _parser().parse_intermixed_args(arguments)
    require_no_contradiction(options)
    rules = _rules(options)
    if options.stream is not None:
        from .stream import run_stream

        return run_stream(options, rules, lambda: _predictor(options, rules))
    if not options.input and not options.explain:
        raise InputError("got no input; give .npz or .jsonl files, a directory, or -")
    reader = find_inputs(options.input)
    predictor = _predictor(options, rules)
    if options.explain:
        print_explanation(predictor)
        if not options.input:
            return 0
    with ExitStack() as stack:
        writers = [make_writer(options.layout, predictor.labels, rules.top_k, write, print_table)]
        if options.save is not None:
            keep = stack.enter_context(saved_lines(options.save))
            writers.append(_file_writer(options, predictor.labels, keep))
        with _progress(reader, options.layout) as advance:
            tally = answer_all(predictor, reader, rules, writers, advance)
        for writer in writers:
            writer.close()
    if options.latency:
        say(tally.latency())
    return EXIT_SOME_FAILED if tally.failed else 0


def _parser() -> argparse.ArgumentParser:
    cli = parser("ifmmin-run", "Recognise emotion with a bundle, whichever modalities are present.")
    cli.add_argument("bundle", type=Path, help="directory written by ifmmin-export")
    cli.add_argument(
        "input",
        nargs="*",
        help=".npz with arrays a, v, t (frames, features), a directory of them, .jsonl, or - for "
        "lines of JSON on standard input",
    )
    cli.add_argument(
        "--pattern", default="auto", help="auto: what is present; or use only these, e.g. a_t"
    )
    cli.add_argument("--nan", choices=NAN_FRAMES, default="refuse", help="frames with a NaN")
    cli.add_argument(
        "--min-quality", action="append", default=[], metavar="v=0.5", help="lower means missing"
    )
    cli.add_argument("--threshold", type=float, default=0.0, help="name no class below, 0 to 1")
    cli.add_argument("--top-k", type=int, metavar="K", help="show the K most probable classes")
    cli.add_argument("--format", choices=FORMATS, default="table", dest="layout")
    cli.add_argument("--save", type=Path, metavar="FILE", help="also as .csv or .jsonl, whole")
    cli.add_argument("--latency", action="store_true", help="percentiles, on standard error")
    cli.add_argument("--backend", default="auto", help=f"auto or one of {', '.join(BACKENDS)}")
    cli.add_argument(
        "--precision",
        default="fp32",
        help="of the graphs: fp32, another that was exported, or auto for the fastest sound one",
    )
    cli.add_argument("--threads", type=_threads, default=1, help="threads inside one call, or auto")
    cli.add_argument(
        "--spinning", action="store_true", help="threads wait busily: sooner, at a core's cost"
    )
    cli.add_argument("--preload", action="store_true", help="load all patterns first, sharing")
    cli.add_argument(
        "--on-empty",
        choices=ON_EMPTY,
        default="error",
        help="with nothing present: an error, or the class shares of training",
    )
    cli.add_argument(
        "--explain", action="store_true", help="try every way to run every pattern, and show them"
    )
    add_stream_arguments(cli)
    return cli


def _predictor(options: argparse.Namespace, rules: RunOptions) -> Predictor:
    predictor = Predictor(
        options.bundle,
        backend=options.backend,
        precision=options.precision,
        threads=options.threads,
        preload=options.preload,
        on_empty=options.on_empty,
        policy=rules.policy,
        options=BackendOptions(spinning=options.spinning, progress=say),
    )
    _require_classes(rules.top_k, len(predictor.labels))
    return predictor


def _threads(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _rules(options: argparse.Namespace) -> RunOptions:
    if not 0.0 <= options.threshold <= 1.0:
        raise InputError(f"--threshold: got {options.threshold}, wanted a probability, 0 to 1")
    return RunOptions(
        pattern=None if options.pattern == "auto" else Pattern.parse(options.pattern),
        threshold=options.threshold,
        top_k=_top_k(options.top_k),
        policy=Policy(options.nan, numbers_by_modality("--min-quality", options.min_quality)),
    )


def _top_k(given: int | None) -> int:
    if given is not None and given < 1:
        raise InputError(f"--top-k: got {given}, wanted at least 1")
    return given or 0


def _require_classes(top_k: int, classes: int) -> None:
    if top_k > classes:
        raise InputError(f"--top-k: got {top_k}, the bundle has {classes} classes")


def _file_writer(options: argparse.Namespace, labels: Sequence[str], keep: Write) -> Writer:
    layout: str = LAYOUT_OF.get(options.save.suffix) or options.layout
    top_k = options.top_k or 0

    def show(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
        keep(f"{title}\n\n{markdown_table(headers, rows)}")

    return make_writer(layout, labels, top_k, keep, show)


@contextmanager
def _progress(reader: Reader, layout: str) -> Iterator[Advance]:
    """A bar for many inputs, unless it would stand among answers on the same terminal."""
    streams = layout != "table" and sys.stdout.isatty()
    if reader.count is None or reader.count < _BAR_FROM or streams:
        yield lambda note: None
    else:
        with progress("predict", reader.count) as advance:
            yield advance


if __name__ == "__main__":
    sys.exit(main())
