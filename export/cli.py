"""Command `ifmmin-export`: from a checkpoint to a bundle of proven graphs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ifmmin.runtime.bundle import PRECISIONS
from ifmmin.runtime.console import command, log_line, parser, print_table
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import ALL_PATTERNS, Modality, Pattern

from .export import DEFAULT_SHAPES, SHAPES, Exported, Request, export_bundle
from .verify.corpus import CorpusChoice
from .verify.parity import FIGURES, parse_losses

if TYPE_CHECKING:
    from .context import ExportedGraph
    from .export import Exported

HEADERS = ("graph", "MB", "logit", "probability", "log-prob. mean", "agreement", "classes")
EVALUATED = ("WA", "UA", "ECE", "UA loss")


def print_exported(exported: Exported) -> None:
    """One row per graph: its size, largest differences to the network, and accuracy if measured."""
    evaluated = any(graph.entry.evaluation for graph in exported.graphs)
    headers = [*HEADERS, *(EVALUATED if evaluated else ())]
    rows = [_row(graph, evaluated=evaluated) for graph in exported.graphs]
    print_table(headers, rows)
    if exported.engines:
        print_table(
            ["engine", "MB", "targets", "version"],
            [[e.file, f"{e.bytes / 1e6:.2f}", ",".join(e.targets), e.version]
             for e in exported.engines],
        )  # fmt: skip


def _row(graph: ExportedGraph, *, evaluated: bool) -> list[str]:
    found = graph.comparison
    row = [graph.name, f"{graph.entry.bytes / 1e6:.2f}"]
    if found is None:
        row += ["by heads"] + [""] * 4
    else:
        row += [
            f"{found.max_difference:.1e}",
            f"{found.probability_max:.1e}",
            f"{found.log_probability_mean:.1e}",
            f"{found.agreement:.1%}",
            str(found.classes),
        ]
    if evaluated:
        figures = graph.entry.evaluation
        if figures is None:
            row += [""] * 4
        else:
            row += [f"{figures[name]:.3f}" for name in ("wa", "ua", "ece")]
            row.append(f"{figures['network_ua'] - figures['ua']:+.3f}")
    return row


_CORPUS = ("FEATURES", "TARGETS FOLD")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    patterns = _patterns(options.pattern)
    exported = export_bundle(
        options.checkpoint, patterns, options.out, overwrite=options.overwrite,
        request=_request(options),
    )  # fmt: skip
    print_exported(exported)
    _warn(exported)
    log_line(f"wrote {options.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    cli = parser("ifmmin-export", "Export a checkpoint as proven ONNX graphs, one per pattern.")
    cli.add_argument("checkpoint", type=Path, help=".safetensors written by ifmmin-train")
    cli.add_argument("--out", type=Path, required=True, help="directory of the bundle")
    cli.add_argument(
        "--pattern",
        action="append",
        required=True,
        help="what is present, e.g. a_t; repeat for more, or all",
    )
    cli.add_argument(
        "--precision",
        action="append",
        choices=PRECISIONS,
        help="repeat for more; default fp32. int8 is for CPUs, fp16 and int8-qdq for TensorRT",
    )
    cli.add_argument(
        "--shape",
        action="append",
        choices=SHAPES,
        help="latency (one utterance at a time) or stream (frames as they come): only that one; "
        "default both. throughput (batches for predict_batch) is added to either. Repeat for more",
    )
    cli.add_argument(
        "--recurrence",
        action="append",
        choices=("lstm", "scan"),
        help="form of LSTMs; default lstm for fp32 and int8, scan for fp16 and int8-qdq",
    )
    cli.add_argument(
        "--evaluate-on",
        nargs="+",
        metavar=_CORPUS,
        help="measure WA, UA and ECE of every graph on the test part of a fold; a corpus without "
        "files takes FOLD alone",
    )
    cli.add_argument(
        "--calibrate-on",
        nargs="+",
        metavar=_CORPUS,
        help="take the ranges of int8-qdq from the training part of a fold; default: drawn inputs",
    )
    cli.add_argument(
        "--allow-loss",
        action="append",
        default=[],
        metavar="FIGURE=NUMBER",
        help=f"accept more loss than the default limits; figures are {', '.join(FIGURES)}",
    )
    cli.add_argument(
        "--missing-frames",
        metavar="a=45,v=50,t=22",
        help="zero frames that stand for a missing modality; default: the checkpoint's",
    )
    cli.add_argument(
        "--engine",
        choices=("tensorrt-rtx",),
        help="also build engines ahead of time from the graphs that it takes first",
    )
    cli.add_argument(
        "--target",
        metavar="SM86,SM89,...",
        help="compute capabilities of those engines; default: all that the engine knows",
    )
    cli.add_argument("--licence", help="of the weights, for the model card")
    cli.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the bundle that stands there, whatever is in it",
    )
    return cli  # fmt: skip


def _request(options: argparse.Namespace) -> Request:
    if options.target and not options.engine:
        raise InputError("--target is for engines; add --engine tensorrt-rtx")
    return Request(
        precisions=tuple(dict.fromkeys(options.precision or ("fp32",))),
        shapes=choose_shapes(options.shape or ()),
        recurrences=tuple(dict.fromkeys(options.recurrence or ())),
        losses=parse_losses(options.allow_loss),
        evaluate_on=_corpus(options.evaluate_on, "--evaluate-on"),
        calibrate_on=_corpus(options.calibrate_on, "--calibrate-on"),
        missing_frames=parse_frames(options.missing_frames),
        engine=options.engine,
        targets=tuple(options.target.split(",")) if options.target else (),
        licence=options.licence,
    )


def choose_shapes(given: Sequence[str]) -> tuple[str, ...]:
    """The shapes that some `--shape` mean: `throughput` adds to the others, which restrict."""
    named = [shape for shape in given if shape in DEFAULT_SHAPES]
    return tuple(dict.fromkeys((*(named or DEFAULT_SHAPES), *given)))


def _corpus(words: Sequence[str] | None, option: str) -> CorpusChoice | None:
    return CorpusChoice.parse(words, option) if words else None


def _patterns(texts: Sequence[str]) -> list[Pattern]:
    if "all" in texts:
        return list(ALL_PATTERNS)
    return list(dict.fromkeys(Pattern.parse(text) for text in texts))


def parse_frames(text: str | None) -> dict[Modality, int]:
    """`a=45,v=50` -> frames per modality; InputError says what is wanted."""
    frames: dict[Modality, int] = {}
    for item in text.split(",") if text else ():
        letter, _, number = item.partition("=")
        if not number.isdecimal() or int(number) < 1:
            raise InputError(f"--missing-frames: got {item!r}, wanted for example a=45")
        modality = Modality.of(letter.strip())
        if modality in frames:
            raise InputError(f"--missing-frames names {modality} twice")
        frames[modality] = int(number)
    return frames


def _warn(exported: Exported) -> None:
    for graph in exported.graphs:
        if graph.comparison is not None and graph.comparison.classes == 1:
            log_line(
                f"warning: {graph.name} gave one class on every probe; the network may be blind to "
                "this input"
            )
    for modality, spec in exported.missing.items():
        if spec.settled_at is None or spec.settled_at > spec.length:
            log_line(
                f"note: the embedding of a missing {modality} has not settled at {spec.length} "
                f"frames, it would move by {spec.deviation:.2g} with more; it was trained like this"
            )


if __name__ == "__main__":
    sys.exit(main())
