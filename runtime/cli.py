"""`ifmmin-run`: the emotion of utterances, by a bundle, without torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from ifmmin.runtime.backends import BACKENDS
from ifmmin.runtime.command import command, parser
from ifmmin.runtime.console import progress
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.inputs import find_inputs, read_inputs
from ifmmin.runtime.modality import Pattern
from ifmmin.runtime.predictor import Predictor
from ifmmin.runtime.render import FORMATS, Answer, render

_BAR_FROM = 50
"""Number of inputs from which progress is shown."""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    cli = parser("ifmmin-run", "Recognise emotion with a bundle, whichever modalities are present.")
    cli.add_argument("bundle", type=Path, help="directory written by ifmmin-export")
    cli.add_argument(
        "input", nargs="+", help=".npz with arrays a, v, t (frames, features), or a directory"
    )
    cli.add_argument(
        "--pattern", default="auto", help="auto: what is present; or use only these, e.g. a_t"
    )
    cli.add_argument("--backend", default="auto", help=f"auto or one of {', '.join(BACKENDS)}")
    cli.add_argument("--threads", type=int, default=1, help="threads inside one call")
    cli.add_argument("--format", choices=FORMATS, default="table", dest="layout")
    options = cli.parse_args(arguments)

    pattern = None if options.pattern == "auto" else Pattern.parse(options.pattern)
    paths = find_inputs(options.input)
    predictor = Predictor(options.bundle, backend=options.backend, threads=options.threads)
    render(_answers(predictor, paths, pattern), predictor.labels, options.layout)
    return 0


def _answers(predictor: Predictor, paths: list[Path], pattern: Pattern | None) -> list[Answer]:
    answers = []
    many = len(paths) >= _BAR_FROM
    with progress("predict", len(paths)) if many else nullcontext(_silent) as advance:
        for path, utterance in read_inputs(paths):
            try:
                prediction = predictor.predict(utterance, pattern=pattern)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
            answers.append(Answer(path.stem, prediction))
            advance("")
    return answers


def _silent(note: str) -> None:
    """Show nothing."""


if __name__ == "__main__":
    sys.exit(main())
