"""`ifmmin-run`: the emotion of utterances, by a bundle, without torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ifmmin.runtime.answering import Rules, answer_all
from ifmmin.runtime.backends import BACKENDS, BackendOptions
from ifmmin.runtime.command import command, parser
from ifmmin.runtime.console import Advance, markdown_table, print_table, progress, say, write
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.explaining import print_explanation
from ifmmin.runtime.inputs import find_inputs
from ifmmin.runtime.modality import Pattern
from ifmmin.runtime.predictor import ON_EMPTY, Predictor
from ifmmin.runtime.render import FORMATS, Sheet, Write, make_sheet
from ifmmin.runtime.saving import LAYOUT_OF, saved_lines
from ifmmin.runtime.sources import Source
from ifmmin.runtime.stream_arguments import (
    add_stream_arguments,
    numbers_by_modality,
    require_no_contradiction,
)
from ifmmin.runtime.validate import NAN_FRAMES, Policy

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
        from ifmmin.runtime.stream.cli_stream import run_stream

        return run_stream(options, rules, lambda: _predictor(options, rules))
    if not options.input and not options.explain:
        raise InputError("got no input; give .npz or .jsonl files, a directory, or -")
    source = find_inputs(options.input)
    predictor = _predictor(options, rules)
    if options.explain:
        print_explanation(predictor)
        if not options.input:
            return 0
    with ExitStack() as stack:
        sheets = [make_sheet(options.layout, predictor.labels, rules.top_k, write, print_table)]
        if options.save is not None:
            keep = stack.enter_context(saved_lines(options.save))
            sheets.append(_saved_sheet(options, predictor.labels, keep))
        with _progress(source, options.layout) as advance:
            tally = answer_all(predictor, source, rules, sheets, advance)
        for sheet in sheets:
            sheet.close()
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


def _predictor(options: argparse.Namespace, rules: Rules) -> Predictor:
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


def _rules(options: argparse.Namespace) -> Rules:
    if not 0.0 <= options.threshold <= 1.0:
        raise InputError(f"--threshold: got {options.threshold}, wanted a probability, 0 to 1")
    return Rules(
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


def _saved_sheet(options: argparse.Namespace, labels: Sequence[str], keep: Write) -> Sheet:
    layout: str = LAYOUT_OF.get(options.save.suffix) or options.layout
    top_k = options.top_k or 0

    def show(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
        keep(f"{title}\n\n{markdown_table(headers, rows)}")

    return make_sheet(layout, labels, top_k, keep, show)


@contextmanager
def _progress(source: Source, layout: str) -> Iterator[Advance]:
    """A bar for many inputs, unless it would stand among answers on the same terminal."""
    streams = layout != "table" and sys.stdout.isatty()
    if source.count is None or source.count < _BAR_FROM or streams:
        yield lambda note: None
    else:
        with progress("predict", source.count) as advance:
            yield advance


if __name__ == "__main__":
    sys.exit(main())
