"""Command `ifmmin-export`: from a checkpoint to a bundle of proven graphs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ifmmin.runtime.bundle import PRECISIONS, shipped
from ifmmin.runtime.bundle.verify import CHECKPOINT_NAME
from ifmmin.runtime.cli.app import command, entry_point, new_app, require_known
from ifmmin.runtime.cli.options import frames_by_modality, texts_by_modality
from ifmmin.runtime.console import log_line, print_table
from ifmmin.runtime.errors import InputError
from ifmmin.runtime.modality import Pattern

from .export import DEFAULT_SHAPES, SHAPES, Request, export_bundle
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


_CORPUS, _ENGINES = "Corpus: measure and calibrate on real data", "Engines built ahead of time"

app = new_app()


# fmt: off
@command(
    app,
    "ifmmin-export run/model.safetensors",
    "ifmmin-export run/model.safetensors --pattern a_t --precision int8 -o bundle",
    "ifmmin-export --pattern a_t",
)
def export(
    checkpoint: Annotated[Path | None, typer.Argument(
        metavar="[CHECKPOINT]",
        help=".safetensors written by ifmmin-train; default: the one that ships.")] = None,
    out: Annotated[Path, typer.Option(
        "--out", "-o", help="Directory of the bundle.")] = Path("bundle"),
    pattern: Annotated[list[str] | None, typer.Option(
        metavar="a_t", help="What is present; repeat for more. Default: all.")] = None,
    precision: Annotated[list[str] | None, typer.Option(
        metavar="|".join(PRECISIONS),
        help="Repeat for more; default fp32. int8 is for CPUs, fp16 and int8-qdq for TensorRT."
    )] = None,
    shape: Annotated[list[str] | None, typer.Option(
        metavar="|".join(SHAPES),
        help="latency (one utterance at a time) or stream (frames as they come): only that "
        "one; default both. throughput (batches for predict_batch) adds to either. Repeat for "
        "more.")] = None,
    recurrence: Annotated[list[str] | None, typer.Option(
        metavar="lstm|scan",
        help="Form of LSTMs; default lstm for fp32 and int8, scan for fp16 and int8-qdq.")] = None,
    allow_loss: Annotated[list[str] | None, typer.Option(
        metavar="FIGURE=NUMBER",
        help=f"Accept more loss than the default limits; figures are {', '.join(FIGURES)}."
    )] = None,
    sample: Annotated[str | None, typer.Option(
        metavar="FILE.npz|DIR|FILE.jsonl",
        help="Utterances that show what features are like, for an imported checkpoint.")] = None,
    missing_frames: Annotated[str | None, typer.Option(
        metavar="a=45,v=50,t=22",
        help="Zero frames that stand for a missing modality; default: the checkpoint's.")] = None,
    frontend: Annotated[list[str] | None, typer.Option(
        metavar="a=DIR",
        help="Folder of a front-end that the checkpoint was trained on; default: the bundle that "
        "ships. Repeat for more.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of the weights, for the model card.")] = None,
    overwrite: Annotated[bool, typer.Option(
        "--overwrite", help="Replace the bundle that stands there, whatever is in it.")] = False,
    evaluate: Annotated[bool, typer.Option(
        "--evaluate", rich_help_panel=_CORPUS,
        help="Measure WA, UA and ECE of every graph on the test part of the fold.")] = False,
    calibrate: Annotated[bool, typer.Option(
        "--calibrate", rich_help_panel=_CORPUS,
        help="Take the ranges of int8-qdq from the training part; default: drawn inputs.")] = False,
    fold: Annotated[int | None, typer.Option(
        rich_help_panel=_CORPUS, help="Default: the fold of the checkpoint.")] = None,
    features: Annotated[Path | None, typer.Option(
        rich_help_panel=_CORPUS, help="Root of the feature files.")] = None,
    targets: Annotated[Path | None, typer.Option(
        rich_help_panel=_CORPUS, help="Root of the label files.")] = None,
    engine: Annotated[Literal["tensorrt-rtx"] | None, typer.Option(
        rich_help_panel=_ENGINES, help="Build engines from the graphs that it takes first."
    )] = None,
    target: Annotated[str | None, typer.Option(
        metavar="SM86,SM89,...", rich_help_panel=_ENGINES,
        help="Compute capabilities of those engines; default: all that the engine knows.")] = None,
) -> None:
    """Export a checkpoint as proven ONNX graphs, one per pattern of present modalities."""
    require_known("--precision", precision, PRECISIONS)
    require_known("--shape", shape, SHAPES)
    require_known("--recurrence", recurrence, ("lstm", "scan"))
    if target and not engine:
        raise InputError("--target is for engines; add --engine tensorrt-rtx")
    given = [name for name, value in (("--fold", fold), ("--features", features),
                                      ("--targets", targets)) if value is not None]  # fmt: skip
    if given and not (evaluate or calibrate):
        raise InputError(f"{given[0]} is of a corpus; say what for by --evaluate or --calibrate")
    choice = CorpusChoice(fold, features, targets)
    request = Request(
        precisions=tuple(dict.fromkeys(precision or ("fp32",))),
        shapes=choose_shapes(shape or ()),
        recurrences=tuple(dict.fromkeys(recurrence or ())),
        losses=parse_losses(allow_loss or ()),
        evaluate_on=choice if evaluate else None,
        calibrate_on=choice if calibrate else None,
        sample=sample,
        missing_frames=frames_by_modality("--missing-frames", missing_frames),
        engine=engine,
        targets=tuple(target.split(",")) if target else (),
        licence=licence,
        frontends={
            m: Path(text) for m, text in texts_by_modality("--frontend", frontend or ()).items()
        },
    )
    exported = export_bundle(
        checkpoint or shipped() / CHECKPOINT_NAME, _patterns(pattern or ["all"]), out,
        overwrite=overwrite, request=request,
    )
    print_exported(exported)
    _warn(exported)
    log_line(f"wrote {out}")
# fmt: on


main = entry_point(app, "ifmmin-export")


def choose_shapes(given: Sequence[str]) -> tuple[str, ...]:
    """The shapes that some `--shape` mean: `throughput` adds to the others, which restrict."""
    named = [shape for shape in given if shape in DEFAULT_SHAPES]
    return tuple(dict.fromkeys((*(named or DEFAULT_SHAPES), *given)))


def _patterns(texts: Sequence[str]) -> list[Pattern] | None:
    if "all" in texts:
        return None
    return list(dict.fromkeys(Pattern.parse(text) for text in texts))


_BLIND = 0.05
"""Deviation of logits over all probes below which an input does not matter."""


def _warn(exported: Exported) -> None:
    if exported.unobserved:
        log_line(
            f"warning: what features of {', '.join(exported.unobserved)} are like is not known, so "
            "the graphs were proven on drawn ones around 0, of unit size; export again with "
            "utterances of yours: --sample FILE.npz|DIR"
        )
    for graph in exported.graphs:
        found = graph.comparison
        if found is not None and found.classes == 1 and found.spread < _BLIND:
            log_line(
                f"warning: {graph.name} gave one class on every probe, and logits that hardly move "
                f"({found.spread:.1g}); the network may be blind to this input"
            )
    for modality, spec in exported.missing.items():
        if spec.settled_at is None or spec.settled_at > spec.length:
            log_line(
                f"note: the embedding of a missing {modality} has not settled at {spec.length} "
                f"frames, it would move by {spec.deviation:.2g} with more; it was trained like this"
            )


if __name__ == "__main__":
    sys.exit(main())
