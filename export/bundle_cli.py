"""Command `ifmmin-bundle`: verifies a bundle on this device, shows what is in it; torch-free.

It also makes front-ends, for which export's packages are wanted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from ifmmin.runtime.bundle import SHAPES, Bundle, GraphEntry, Manifest, ModalitySpec
from ifmmin.runtime.bundle.verify import CheckResult, check_bundle
from ifmmin.runtime.cli.app import BundleOption, command, entry_point, new_app, require_bundle
from ifmmin.runtime.console import log_line, print_table, printable, progress, write
from ifmmin.runtime.errors import InputError, one_line
from ifmmin.runtime.files import atomic_directory, read_regular
from ifmmin.runtime.frontends import blendshapes, openface, opensmile
from ifmmin.runtime.frontends.base import open_frontend
from ifmmin.runtime.frontends.spec import FrontEndSpec, folder_files, read_folder
from ifmmin.runtime.modality import Modality, Pattern

from .card import MEASURED, measured, mega, provenance, short, without_empty

Kind = Literal["ge2e", "opensmile", "minilm", "bert", "openface", "blendshapes"]
_OF_OTHERS = ("opensmile", "openface", "blendshapes")
"""Those whose code or model the user installs; their folder only says so."""
Table = tuple[str, list[str], list[list[str]]]
"""Title, headers and rows."""


def about(manifest: Manifest) -> dict[str, str]:
    """What the bundle is as a whole, by name."""
    return {
        "labels": ", ".join(manifest.labels),
        "patterns": _names(manifest.patterns),
        "patterns of streams": _names(manifest.stream_patterns),
        "patterns of batches": ", ".join(_subjects(manifest, "throughput"))
        or "one by one; ifmmin-export --shape throughput adds graphs for batches",
        "model": manifest.checkpoint.model,
        "checkpoint": manifest.checkpoint.sha256,
        **provenance(manifest.checkpoint).facts,
        "licence": manifest.licence or "not stated",
        "tools": ", ".join(f"{name} {version}" for name, version in manifest.tools.items()),
    }


def _names(patterns: Iterable[Pattern]) -> str:
    return ", ".join(map(str, patterns)) or "none"


def tables(manifest: Manifest) -> Iterator[Table]:
    """What is in the bundle, empty columns left out."""
    headers = ["modality", "dim", "frames/s", "minimum", "verified to", "standardised", "features"]
    yield "modalities", headers, [_modality(m, s) for m, s in manifest.modalities.items()]
    fronts = [_front_end(m, s.frontend) for m, s in manifest.modalities.items() if s.frontend]
    if fronts:
        yield "front-ends", ["modality", "identity", "MB", "licence", "files"], fronts
    headers = ["missing", "zero frames", "longer ones change", "settled at", "tolerance"]
    yield (
        "for a missing modality",
        headers,
        [_missing(m, s) for m, s in manifest.modalities.items()],
    )
    headers = ["shape", "subject", "precision", "recurrence", *MEASURED]
    rows = [_graph(entry) for entry in manifest.graphs]
    yield "graphs", *without_empty(headers, rows)
    if manifest.engines:
        yield (
            "engines",
            ["file", "engine", "version", "targets", "MB", "built from"],
            [
                [e.file, e.engine, e.version, " ".join(e.targets), mega(e.bytes), e.graph]
                for e in manifest.engines
            ],
        )
    yield "megabytes", *_totals(manifest)
    yield "what a backend takes first", *_firsts(manifest)


def as_json(manifest: Manifest) -> str:
    """The manifest, with what was worked out from it."""
    content: dict[str, Any] = msgspec.to_builtins(manifest)
    content["total_bytes"] = totals(manifest)
    content["takes_first"] = {
        backend: {
            shape: {
                subject: entry.file
                for subject in _subjects(manifest, shape)
                if (entry := first(manifest, backend, shape, subject))
            }
            for shape in _shapes(manifest)
        }
        for backend in manifest.backends
    }
    return json.dumps(content, indent=2)  # in ASCII, which a terminal may show


def totals(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Bytes of all graphs per precision and shape."""
    found: dict[str, dict[str, int]] = {}
    for entry in manifest.graphs:
        of_shape = found.setdefault(entry.precision, {})
        of_shape[entry.shape] = of_shape.get(entry.shape, 0) + entry.bytes
    return found


def first(manifest: Manifest, backend: str, shape: str, subject: str) -> GraphEntry | None:
    """The graph of a pattern or modality that a backend takes first, if it takes any."""
    spec = manifest.backends[backend]
    recurrences = (*spec.recurrences, "none")
    found = [
        entry
        for entry in manifest.graphs
        if (entry.shape, entry.subject) == (shape, subject)
        and entry.precision in spec.precisions
        and entry.recurrence in recurrences
    ]
    return min(
        found,
        key=lambda e: (spec.precisions.index(e.precision), recurrences.index(e.recurrence)),
        default=None,
    )


def _modality(modality: Modality, spec: ModalitySpec) -> list[str]:
    return [
        f"{modality} {modality.word}",
        str(spec.dim),
        f"{spec.frame_rate:g}" if spec.frame_rate else "-",
        str(spec.minimum_length),
        str(spec.verified_length),
        "by the caller" if spec.normalised else "inside",
        spec.features,
    ]


def _front_end(modality: Modality, spec: FrontEndSpec) -> list[str]:
    files = spec.files.values()
    return [
        f"{modality} {modality.word}",
        spec.identity,
        mega(sum(entry.size for entry in files)),
        spec.licence or "",
        " ".join(entry.file for entry in files),
    ]


def _missing(modality: Modality, spec: ModalitySpec) -> list[str]:
    missing = spec.missing
    return [
        f"{modality} {modality.word}",
        str(missing.length),
        short(missing.deviation),
        "never" if missing.settled_at is None else str(missing.settled_at),
        f"{missing.tolerance:g}",
    ]


def _graph(entry: GraphEntry) -> list[str]:
    name = [entry.shape, entry.subject, entry.precision, entry.recurrence]
    return [*name, *measured(entry)]


def _totals(manifest: Manifest) -> tuple[list[str], list[list[str]]]:
    shapes = _shapes(manifest)
    rows = [
        [precision, *(mega(of.get(shape, 0)) for shape in shapes), mega(sum(of.values()))]
        for precision, of in totals(manifest).items()
    ]
    return ["precision", *shapes, "all"], rows


def _firsts(manifest: Manifest) -> tuple[list[str], list[list[str]]]:
    shapes = _shapes(manifest)
    rows = [[name, *(_taken(manifest, name, s) for s in shapes)] for name in manifest.backends]
    return ["backend", *shapes], rows


def _taken(manifest: Manifest, backend: str, shape: str) -> str:
    """Precision and form, once where all subjects have the same."""
    forms: dict[str, list[str]] = {}
    for subject in _subjects(manifest, shape):
        entry = first(manifest, backend, shape, subject)
        form = "nothing" if entry is None else entry.precision
        if entry is not None and entry.recurrence == "scan":
            form += " scan"
        forms.setdefault(form, []).append(subject)
    if len(forms) == 1:
        return next(iter(forms))
    return "; ".join(f"{form}: {' '.join(subjects)}" for form, subjects in forms.items())


def _shapes(manifest: Manifest) -> list[str]:
    return [shape for shape in SHAPES if any(e.shape == shape for e in manifest.graphs)]


def _subjects(manifest: Manifest, shape: str) -> list[str]:
    """Patterns or modalities with a graph of a shape, each once."""
    return list(dict.fromkeys(e.subject for e in manifest.graphs if e.shape == shape))


EXIT_FAILED = 1

app = new_app(
    "Prove a bundle on this device, say what is in it, write it for Triton or browsers, or make a "
    "front-end.",
    "ifmmin-bundle verify -b bundle",
    "ifmmin-bundle inspect -b bundle",
    "ifmmin-bundle triton -b bundle -o repository",
    "ifmmin-bundle web -b bundle -o site",
    "ifmmin-bundle slim -b bundle --pattern a_t --precision int8 -o device",
    "ifmmin-bundle frontend bert bert-large-uncased -o words",
)


@command(app, "ifmmin-bundle inspect -b bundle", "ifmmin-bundle inspect -b bundle --format json")
def inspect(
    bundle: BundleOption = None,
    layout: Annotated[
        Literal["table", "json"], typer.Option("--format", help="How it is printed.")
    ] = "table",
) -> None:
    """Print what is in a bundle."""
    manifest = Bundle(require_bundle(bundle)).manifest
    if layout == "json":
        write(as_json(manifest))
        return
    for name, value in about(manifest).items():
        write(printable(f"{name:<11} {value}"))
    for title, headers, rows in tables(manifest):
        write("")
        print_table(headers, rows, title=title)


@command(
    app,
    "ifmmin-bundle verify -b bundle",
    "ifmmin-bundle verify -b bundle --checkpoint run/model.safetensors",
)
def verify(
    bundle: BundleOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also compare every graph with this network again, on new inputs; needs torch.",
        ),
    ] = None,
) -> int:
    """Check hashes, graphs and golden vectors; exit code 1 where one is wrong."""
    opened = Bundle(require_bundle(bundle))
    with progress("verify", len(opened.manifest.graphs)) as advance:
        checks = check_bundle(opened, advance=advance)
    sound = all(check.passed for check in checks)
    if checkpoint is not None and sound:
        checks += _again(opened, checkpoint)
    print_table(["file", "checks passed", "largest difference", "allowed", "of a"], _rows(checks))
    for check in checks:
        if check.note:
            log_line(f"note: {check}")
    failed = [check for check in checks if not check.passed]
    for check in failed:
        log_line(f"failed: {check}", "error")
    if checkpoint is not None and not sound:
        log_line("not compared with the checkpoint: the bundle itself is not sound")
    if failed:
        log_line(
            f"{len(failed)} of {len(checks)} checks failed; copy or export the bundle again",
            "error",
        )
        return EXIT_FAILED
    log_line(f"all {len(checks)} checks passed")
    return 0


@command(app, "ifmmin-bundle triton -b bundle -o repository")
def triton(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the repository.")],
    bundle: BundleOption = None,
    device: Annotated[
        Literal["cpu", "gpu", "tensorrt"],
        typer.Option(help="Where Triton runs the graphs; tensorrt: engines, built as it loads."),
    ] = "cpu",
) -> None:
    """Write a repository of models for NVIDIA Triton: patterns, a router, and streams."""
    from .triton.repository import write_repository

    names = write_repository(Bundle(require_bundle(bundle)), out, device)
    log_line(f"wrote {out}: {', '.join(names)}")


# fmt: off
@command(
    app,
    "ifmmin-bundle slim --pattern a -o small",
    "ifmmin-bundle slim -b bundle --pattern a_t --pattern t --precision int8 -o device",
)
def slim(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the new bundle.")],
    pattern: Annotated[list[str], typer.Option(
        help="What the device can sense, such as a_t; once each. A modality that drops out wants "
        "the pattern without it.")],
    bundle: BundleOption = None,
    precision: Annotated[list[str] | None, typer.Option(
        help="fp32, fp16, int8 or int8-qdq; once each. Default: fp32.")] = None,
    shape: Annotated[list[str] | None, typer.Option(
        help="latency (whole utterances), throughput (batches of them) or stream; once each. "
        "Default: what there is of latency and stream.")] = None,
) -> None:
    """Write the part of a bundle that one device needs."""
    # fmt: on
    from .slim import write_slim

    opened = Bundle(require_bundle(bundle))
    patterns = [Pattern.parse(text) for text in pattern]
    made = write_slim(opened, out, patterns, precision or ["fp32"], shape or ())
    sizes = [sum(p.stat().st_size for p in d.iterdir()) for d in (out, opened.directory)]
    log_line(
        f"wrote {out}: {len(made.graphs)} graphs, {mega(sizes[0])} of {mega(sizes[1])} MB; "
        f"ifmmin-bundle verify -b {out} proves it here"
    )


@command(app, "ifmmin-bundle web -o site", "ifmmin-bundle web -b bundle --words -o site")
def web(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the folder.")],
    bundle: BundleOption = None,
    words: Annotated[
        bool,
        typer.Option(
            "--words",
            help="Also take words: the front-end for them, 12 MB of the bundle that comes with the "
            "package, and the graphs.",
        ),
    ] = False,
    package: Annotated[
        Path | None,
        typer.Option(
            "--onnxruntime-web",
            metavar="FILE.tgz",
            help="The package of npm, where there is no network; default: npm is asked for it.",
        ),
    ] = None,
) -> None:
    """Write a folder for any server of files: a page that answers in the browser itself."""
    from .web.site import write_site

    sizes = write_site(Bundle(require_bundle(bundle)), out, words=words, package=package)
    log_line(f"wrote {out}: {len(sizes)} files, {mega(sum(sizes.values()))} MB")


# fmt: off
@command(
    app,
    "ifmmin-bundle frontend bert bert-large-uncased -o words",
    "ifmmin-bundle frontend minilm all-MiniLM-L6-v2 --layers 3 --eight-bits comments.csv -o words",
    "ifmmin-bundle frontend ge2e pretrained.pt --detector silero_vad_16k_sequence.onnx -o sound",
    "ifmmin-bundle frontend blendshapes face_landmarker.task -o face",
)
def frontend(
    kind: Annotated[Kind, typer.Argument(
        help="ge2e and opensmile make features of sound, minilm and bert of words, openface and "
        "blendshapes of faces.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the front-end.")],
    source: Annotated[Path | None, typer.Argument(
        metavar="SOURCE", help="What lies here: for words the folder of a BERT-like model, as "
        "transformers saves it; for ge2e Resemblyzer's pretrained.pt; for blendshapes "
        "face_landmarker.task. For openface whether there is a frame per clip or per frame of the "
        "video: clip, frame. For opensmile nothing.")] = None,
    layers: Annotated[int | None, typer.Option(
        min=1, help="Words: take the states after so many layers; default: all.")] = None,
    eight_bits: Annotated[Path | None, typer.Option(
        metavar="COMMENTS.csv", help="Words: put the encoder into 8 bits, if answers on these "
        "comments (columns label and text) stay.")] = None,
    detector: Annotated[Path | None, typer.Option(
        metavar="FILE", help="ge2e: silero-vad's silero_vad_16k_sequence.onnx, which finds "
        "speech.")] = None,
) -> None:
    """Make a front-end, which makes features of sound, words or faces, of published weights."""
    # fmt: on
    if (source is None) != (kind == "opensmile"):
        raise InputError(f"{kind} wants {'a' if source is None else 'no'} SOURCE; see --help")
    if kind in _OF_OTHERS and (detector or layers or eight_bits):
        raise InputError(f"{kind} takes none of --detector, --layers and --eight-bits")
    try:
        if source is None or kind in _OF_OTHERS:
            _write_frontend(kind, source, out)
        elif kind == "ge2e":
            if detector is None or layers is not None or eight_bits is not None:
                raise InputError("ge2e wants --detector, and neither --layers nor --eight-bits")
            _make_ge2e(source, detector, out)
        else:
            if detector is not None:
                raise InputError(f"--detector is for ge2e, got {kind}")
            from .frontends.words import make_words

            rows = make_words(kind, source, out, layers, eight_bits)
            print_table(["graph", "check", "found", "allowed"], rows)
    except ImportError as error:
        raise InputError(
            f"to make a front-end is part of export ({error}); run pip install 'ifmmin[export]'"
        ) from error
    spec, _ = read_folder(out)
    size = sum(entry.size for entry in spec.files.values())
    log_line(f"{out}: {spec.identity}, {spec.dim} numbers a frame, {mega(size)} MB")


def _make_ge2e(source: Path, detector: Path, out: Path) -> None:
    from ifmmin.runtime.frontends.ge2e import Rules

    from .frontends.ge2e import make_ge2e, resemblyzer_weights, silero_weights

    weights = []
    for path, read in ((source, resemblyzer_weights), (detector, silero_weights)):
        try:
            weights.append(read(path))
        except Exception as error:  # whatever readers of archives raise of other files
            if isinstance(error, ImportError):
                raise
            raise InputError(
                f"{path} cannot be read ({one_line(error)}); wanted Resemblyzer's pretrained.pt, "
                "and silero-vad's silero_vad_16k_sequence.onnx as --detector"
            ) from error
    make_ge2e(weights[0], weights[1], out, Rules())


main = entry_point(app, "ifmmin-bundle")


def _write_frontend(kind: Kind, source: Path | None, out: Path) -> None:
    """The folder of a front-end that runs what was installed; it is opened to see that it can."""
    contents = {}
    if kind == "blendshapes":
        try:
            contents["task"] = read_regular(Path(source or ""), InputError)
        except OSError as error:
            raise InputError(f"{source} cannot be read: {error.strerror}") from error
        spec = blendshapes.specify(contents["task"])
    else:
        spec = opensmile.specify() if source is None else openface.specify(str(source))
    open_frontend(spec, lambda entry: contents["task"])
    with atomic_directory(out) as folder:
        for name, content in folder_files(spec, contents).items():
            (folder / name).write_bytes(content)


def _again(bundle: Bundle, checkpoint: Path) -> list[CheckResult]:
    """The comparison with the network; the only part that wants torch."""
    try:
        from .verify.reprove import comparable, reprove
    except ImportError as error:
        raise InputError(
            f"--checkpoint needs what trains and exports ({error}); "
            "run pip install 'ifmmin[export]', or leave it out"
        ) from error
    with progress("compare", len(comparable(bundle))) as advance:
        return reprove(bundle, checkpoint, advance=advance)


def _rows(checks: Sequence[CheckResult]) -> list[list[str]]:
    """A row per file, in the order in which the files came up."""
    by_file: dict[str, list[CheckResult]] = {}
    for check in checks:
        by_file.setdefault(check.file, []).append(check)
    return [_row(file, found) for file, found in by_file.items()]


def _row(file: str, checks: Sequence[CheckResult]) -> list[str]:
    """The difference shown is the one that came closest to what is allowed."""
    passed = sum(check.passed for check in checks)
    compared = [
        (c.difference / c.allowed, c) for c in checks if c.difference is not None and c.allowed
    ]
    if not compared:
        return [file, f"{passed} of {len(checks)}", "", "", ""]
    _, closest = max(compared, key=lambda pair: pair[0])
    figures = [f"{closest.difference:.1e}", f"{closest.allowed:.1e}", closest.unit]
    return [file, f"{passed} of {len(checks)}", *figures]


if __name__ == "__main__":
    sys.exit(main())
