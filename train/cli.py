"""Command `ifmmin-train`: train, measure, compare and import networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import torch
import typer

from ifmmin.runtime.cli.app import command, entry_point, new_app
from ifmmin.runtime.cli.options import frames_by_modality, texts_by_modality
from ifmmin.runtime.console import log_line, print_table
from ifmmin.runtime.errors import CheckpointError, CorpusError, IfmminError, InputError, OutputError
from ifmmin.runtime.files import require_writable
from ifmmin.runtime.process import usable_cores

from .checkpoint import Header, load_checkpoint, save_checkpoint
from .config import Form, Model
from .data import fold_count, load_corpus, read_corpus
from .data.corpus import PARTS, Corpus, problems, remarks
from .data.recordings import NEEDED, PART, SOURCES
from .evaluate import labels_of, require_predictions_file, scale_of, score, write_predictions
from .extract import extract as extract_corpus
from .missing import parse_rates
from .model.network import EmotionNetwork
from .recipe import Recipe, corpus_roots, load_recipe, recipe_names
from .reference.checkpoint import import_released
from .sweep.curves import CURVES_NAME, Asked, answer_masked, measure_curves, write_curves
from .sweep.executors import EXECUTORS
from .sweep.plan import Plan, parse_numbers, resolve, vary
from .sweep.run import measure_missing
from .sweep.run import sweep as run_sweep
from .tables import class_table, input_table, print_curve, print_curves, print_metrics, print_sweep
from .trainer import CHECKPOINT_NAME
from .trainer import fit as fit_network

_SHOWN_PROBLEMS = 20
_MOST_SEEDS = 1 << 32
_MOST_THREADS = 1024
_CORPUS = "Corpus"

_RECIPE = f"A YAML file, a folder that extract wrote, or one of {', '.join(recipe_names())}."
RecipeOption = Annotated[str, typer.Option("--recipe", help=_RECIPE)]
OptionalRecipe = Annotated[str | None, typer.Option("--recipe", help=_RECIPE)]
CorpusOption = Annotated[
    str | None,
    typer.Option(
        "--corpus", metavar="RECIPE|DIR",
        help="Take the corpus section of this recipe instead, or the corpus in this folder.",
        rich_help_panel=_CORPUS,
    ),
]  # fmt: skip
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE",
        help="Change a field of the recipe, e.g. stage2.epochs=10; repeat for more.",
    ),
]  # fmt: skip
FeaturesOption = Annotated[
    Path | None,
    typer.Option("--features", help="Root of the feature files.", rich_help_panel=_CORPUS),
]
TargetsOption = Annotated[
    Path | None, typer.Option("--targets", help="Root of the label files.", rich_help_panel=_CORPUS)
]
_MISSING = "What is missing"
RateOption = Annotated[
    str | None,
    typer.Option(
        "--missing-rate", metavar="FROM:TO:STEP",
        help="Also measure with this share of modality slots absent, one at least left per "
        "utterance; 0:0.7:0.1, or 0.1,0.3.", rich_help_panel=_MISSING,
    ),
]  # fmt: skip
FramesOption = Annotated[
    str | None,
    typer.Option(
        "--missing-frames", metavar="0.1,0.3",
        help="Also measure with this share of frames or tokens zero within every modality, at "
        "random and in one run.", rich_help_panel=_MISSING,
    ),
]  # fmt: skip
MaskSeed = Annotated[
    int,
    typer.Option(
        "--missing-seed", min=0, help="Of the masks, which are the same for every network.",
        rich_help_panel=_MISSING,
    ),
]  # fmt: skip
TorchThreads = Annotated[
    int | None, typer.Option("--threads", help="CPU threads; default: torch's choice.")
]

app = new_app(
    "Train, measure and compare IF-MMIN and its baselines.",
    "ifmmin-train fit --recipe synthetic -o run",
    "ifmmin-train evaluate run/model.safetensors",
)


def _use_threads(threads: int | None) -> None:
    """Set torch's threads; results are the same for the same number."""
    if threads is not None:
        _require_one("--threads", threads)
    # torch itself knows of no container's quota.
    torch.set_num_threads(threads or min(torch.get_num_threads(), usable_cores()))


def _require_one(option: str, value: int) -> None:
    if not 1 <= value <= _MOST_THREADS:
        raise InputError(f"{option} must be 1 to {_MOST_THREADS}, got {value}")


# fmt: off
@command(
    app,
    "ifmmin-train fit --recipe synthetic -o run",
    "ifmmin-train fit --recipe robust --fold 1 --features DIR --targets DIR -o run",
)
def fit(
    recipe: RecipeOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the run.")],
    model: Annotated[Model | None, typer.Option(help="Train this model instead.")] = None,
    fold: Annotated[int, typer.Option(help="Of the corpus, from 1.")] = 1,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run at --out.")] = False,
    overrides: SetOption = None,
    corpus: CorpusOption = None,
    features: FeaturesOption = None,
    targets: TargetsOption = None,
    threads: TorchThreads = None,
) -> None:
    """Train a network and write a run."""
    _use_threads(threads)
    if not 0 <= seed < _MOST_SEEDS:
        raise InputError(f"--seed: got {seed}, wanted a whole number from 0 to {_MOST_SEEDS - 1}")
    loaded = load_recipe(recipe, overrides or (), model=model, corpus=corpus)
    features, targets = corpus_roots((corpus, recipe), features, targets)
    data = load_corpus(
        loaded.corpus, fold=fold, features=features, targets=targets, modalities=loaded.modalities
    )
    counts = ", ".join(f"{len(data.parts[part])} {part}" for part in PARTS)
    log_line(f"corpus {data.name}, fold {fold}: {counts}")
    for remark in remarks(data):
        log_line(f"warning: {remark}")
    found = fit_network(loaded, data, fold=fold, seed=seed, out=out, overwrite=overwrite)
    test = data.parts["test"]
    print_metrics(found.scores, labels_of(test), scale_of(data, test), data.possible)
    log_line(f"wrote {out / CHECKPOINT_NAME}")
# fmt: on


# fmt: off
@command(
    app,
    "ifmmin-train evaluate run/model.safetensors",
    "ifmmin-train evaluate run/model.safetensors --part validation --save answers.csv",
    "ifmmin-train evaluate run/model.safetensors --missing-rate 0:0.7:0.1 --curves curves",
)
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(
        metavar="CHECKPOINT", help=".safetensors written by fit.")],
    recipe: Annotated[str | None, typer.Option(
        help="Whose corpus to measure on; default: the checkpoint's own.")] = None,
    fold: Annotated[int | None, typer.Option(help="Default: the checkpoint's own.")] = None,
    part: Annotated[Literal["train", "validation", "test"], typer.Option(
        help="Of the fold.")] = "test",
    save: Annotated[Path | None, typer.Option(
        "--save", "-o", metavar="FILE",
        help="Also write a prediction per utterance and pattern, with the probability of every "
        "class, to FILE.csv or FILE.jsonl.")] = None,
    missing_rate: RateOption = None,
    missing_frames: FramesOption = None,
    missing_seed: MaskSeed = 0,
    curves: Annotated[Path | None, typer.Option(
        "--curves", metavar="DIR", help="Write what --missing-rate and --missing-frames found: "
        "tables, CSV, plots.", rich_help_panel=_MISSING)] = None,
    features: FeaturesOption = None,
    targets: TargetsOption = None,
    threads: TorchThreads = None,
) -> None:
    """Measure a checkpoint under all patterns, and at missing rates."""
    _use_threads(threads)
    missing = _asked(missing_rate, missing_frames, missing_seed)
    if curves is not None:
        if missing is None:
            raise InputError("--curves wants --missing-rate or --missing-frames; give one of them")
        require_writable(curves / CURVES_NAME)
    if save is not None:
        require_predictions_file(save)
    network, header = load_checkpoint(checkpoint)
    loaded = load_recipe(recipe) if recipe else _own(header, checkpoint)
    chosen = fold if fold is not None else header.training.get("fold", 1)
    features, targets = corpus_roots((recipe,), features, targets)
    corpus = load_corpus(
        loaded.corpus, fold=chosen, features=features, targets=targets,
        modalities=network.modalities,
    )  # fmt: skip
    network.require_corpus(corpus)
    _standardise(network, corpus)
    network.reference_batches = loaded.reference_batches
    utterances = corpus.parts[part]
    scores = score(network, utterances)
    if save is not None:
        write_predictions(save, scores, utterances, corpus.labels)
    possible = corpus.possible if part == "test" else None
    scale = scale_of(corpus, utterances)
    print_metrics(scores, labels_of(utterances), scale, possible)
    if missing is not None:
        answers = {(chosen, 0): answer_masked(network, utterances, missing)}
        found = measure_curves({checkpoint.stem: answers}, missing)
        for protocol in missing.protocols:
            print_curve(found.of(protocol)[0])
        log_line(
            "of what is missing: all answers at a rate as one set, with 95% intervals over "
            "utterances; mean: over the patterns that are left; area: mean height over the rates"
        )
        if curves is not None:
            write_curves(curves, found, loaded.select)
            log_line(f"wrote {curves / CURVES_NAME}, CSV files and plots")
# fmt: on


def _asked(rate: str | None, frames: str | None, seed: int) -> Asked | None:
    """What the options ask for; None where they ask for nothing."""
    if rate is None and frames is None:
        return None
    return Asked(
        () if rate is None else parse_rates(rate, "--missing-rate"),
        () if frames is None else parse_rates(frames, "--missing-frames"),
        seed,
    )


def _standardise(network: EmotionNetwork, corpus: Corpus) -> None:
    """Do what a checkpoint without statistics leaves to its caller."""
    for modality in network.modalities:
        if not network.config.features[modality].normalised:
            continue
        if modality in corpus.statistics:
            network.normaliser(modality).take(corpus.statistics[modality])
        else:
            log_line(
                f"the checkpoint wants {modality} standardised and {corpus.name} has no statistics "
                "for it: its values are taken as they are"
            )


def _own(header: Header, path: Path) -> Recipe:
    try:
        return msgspec.convert(header.training["recipe"], Recipe)
    except (KeyError, msgspec.ValidationError, IfmminError) as error:
        raise CheckpointError(
            f"{path} does not say on what it was trained ({error}); give --recipe"
        ) from error


# fmt: off
@command(
    app,
    "ifmmin-train sweep --recipe synthetic --model if-mmin,linear --seeds 0-2 -o sweep",
    "ifmmin-train sweep --model robust=robust:if-mmin --folds 1-5 --features DIR --targets DIR "
    "-o sweep",
)
def sweep(
    models: Annotated[list[str], typer.Option(
        "--model", metavar="ENTRY",
        help="MODEL, RECIPE:MODEL or NAME=RECIPE:MODEL, each with +KEY=VALUE after it where a "
        "field differs; repeat, or separate by commas.")],
    out: Annotated[Path, typer.Option(
        "--out", "-o",
        help="Directory of the sweep; one that holds a sweep is gone on with, and may be given "
        "more folds, seeds and entries.")],
    recipe: OptionalRecipe = None,
    folds: Annotated[str, typer.Option(help="E.g. 1-5 or 1,3.")] = "1",
    seeds: Annotated[str, typer.Option(help="E.g. 0-2 or 0,7.")] = "0",
    executor: Annotated[Literal["local", "ray"], typer.Option(help="What runs units.")] = "local",
    jobs: Annotated[int | None, typer.Option(
        help="Units at a time; default: cores / threads.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of a unit.")] = 1,
    missing_rate: RateOption = None,
    missing_frames: FramesOption = None,
    missing_seed: MaskSeed = 0,
    overrides: SetOption = None,
    variations: Annotated[list[str] | None, typer.Option(
        "--vary", metavar="KEY=VALUE,VALUE",
        help="Every entry also with these values of a field, one field at a time, and how much the "
        "first entry gains over each other; repeat for more.")] = None,
    corpus: CorpusOption = None,
    features: FeaturesOption = None,
    targets: TargetsOption = None,
) -> None:
    """Train and compare models over folds and seeds; call again to go on."""
    _require_one("--threads", threads)
    missing = _asked(missing_rate, missing_frames, missing_seed)
    if jobs is not None:
        _require_one("--jobs", jobs)
    given = (models, recipe)
    entries = resolve(*given, overrides=overrides or (), corpus=corpus)
    entries, varied = vary(
        entries, variations or (), *given, overrides=overrides or (), corpus=corpus
    )
    plan = Plan(
        entries=entries,
        varied=varied,
        folds=parse_numbers(folds, "--folds", least=1),
        seeds=parse_numbers(seeds, "--seeds", least=0),
        threads=threads,
    )
    parallel = jobs or max(1, usable_cores() // threads)
    features, targets = corpus_roots((corpus, recipe), features, targets)
    found = run_sweep(
        plan, out, EXECUTORS[executor], parallel=parallel, features=features, targets=targets
    )
    print_sweep(found)
    log_line(f"wrote {out / 'results.md'}, CSV files and plots")
    if missing is not None:
        torch.set_num_threads(threads)
        curves = measure_missing(plan, out, missing, features=features, targets=targets)
        for protocol in missing.protocols:
            print_curves(curves.of(protocol), found.figures[0])
        log_line(f"wrote {out / CURVES_NAME}, CSV files and plots")
# fmt: on


# fmt: off
@command(
    app,
    "ifmmin-train inspect --recipe synthetic",
    "ifmmin-train inspect --recipe composite --features DIR --targets DIR",
)
def inspect(
    recipe: RecipeOption,
    fold: Annotated[int | None, typer.Option(help="Default: all folds.")] = None,
    overrides: SetOption = None,
    corpus: CorpusOption = None,
    features: FeaturesOption = None,
    targets: TargetsOption = None,
) -> None:
    """Print what a corpus contains: counts, lengths, missing, class balance.

    Ends with an error where a fold has problems.
    """
    loaded = load_recipe(recipe, overrides or (), corpus=corpus)
    features, targets = corpus_roots((corpus, recipe), features, targets)
    folds = [fold] if fold is not None else range(1, fold_count(loaded.corpus) + 1)
    found: list[str] = []
    for number in folds:
        try:
            data = read_corpus(
                loaded.corpus, fold=number, features=features, targets=targets,
                modalities=loaded.modalities,
            )  # fmt: skip
        except CorpusError as error:
            found.append(f"fold {number}: {error}")
            continue
        if number == folds[0]:
            print_table(*input_table(data), title=f"{data.name}: inputs")
        print_table(*class_table(data), title=f"{data.name}, fold {number}: utterances")
        found += [f"fold {number}: {problem}" for problem in problems(data)]
        for remark in remarks(data):
            log_line(f"note: fold {number}: {remark}")
    for problem in found[:_SHOWN_PROBLEMS]:
        log_line(f"problem: {problem}", "error")
    if found:
        raise CorpusError(f"{len(found)} problems; mend them before training")
# fmt: on


# fmt: off
@command(
    app,
    "ifmmin-train extract recordings.csv --out corpus",
    "ifmmin-train extract recordings.csv --frontend v=blendshapes --noisy 1 --folds 10 -o corpus",
)
def extract(
    table: Annotated[Path, typer.Argument(
        metavar="CSV",
        help=f"Columns {', '.join(NEEDED)} and some of {', '.join(SOURCES)}, whose paths are "
        f"relative to it; {PART} (train, validation, test) in place of folds.")],
    out: Annotated[Path, typer.Option(
        "--out", "-o", help="Directory of the corpus; one that was begun is gone on with.")],
    frontend: Annotated[list[str] | None, typer.Option(
        metavar="a=DIR", help="Front-end of a modality, a folder or package.module:function; "
        "default: the bundle that ships. Repeat for more.")] = None,
    labels: Annotated[str | None, typer.Option(
        metavar="angry,happy,...", help="Classes in their order; default: those found, sorted."
    )] = None,
    folds: Annotated[int | None, typer.Option(
        help="Groups of speakers; default 5, or one each where they are fewer.")] = None,
    noisy: Annotated[int, typer.Option(
        min=0, max=100, help="Copies of each sound with noise and another level, for training "
        "alone.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Processes; default: cores.")] = None,
) -> int:
    """Make a corpus of recordings, words and labels.

    Ends with 1 where some of them are broken: a line each, the others are written.
    """
    if jobs is not None:
        _require_one("--jobs", jobs)
    made = extract_corpus(
        table, out,
        frontends=texts_by_modality("--frontend", frontend or ()),
        labels=None if labels is None else [name.strip() for name in labels.split(",")],
        folds=folds, copies=noisy, processes=jobs or usable_cores(),
    )  # fmt: skip
    for line in made.broken:
        log_line(f"error: {line}", "error")
    if made.silent:
        log_line(f"note: {made.silent} signals have nothing in them: no speech, no words, no face")
    for modality, spec in made.specs.items():
        log_line(f"{modality}: {spec.identity}, {spec.dim} numbers a frame")
    more = f", {made.copies} noisy copies" if made.copies else ""
    log_line(
        f"wrote {out}: {made.utterances} utterances{more}, {len(made.labels)} classes "
        f"({', '.join(made.labels)}), {made.folds} fold{'s' if made.folds > 1 else ''}"
    )
    return 1 if made.broken else 0
# fmt: on


# fmt: off
@command(
    app,
    "ifmmin-train import-released checkpoints/NAME --fold 1 -o model.safetensors",
    "ifmmin-train import-released checkpoints/NAME --fold 1 --imagination cascade "
    "--statistics comparE_mean_std.h5 -o model.safetensors",
    name="import-released",
)
def import_reference(
    directory: Annotated[Path, typer.Argument(
        metavar="DIR", help="checkpoints/NAME of the reference.")],
    fold: Annotated[int, typer.Option(help="Of its cross-validation, from 1.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint, .safetensors.")],
    imagination: Annotated[Form | None, typer.Option(
        help="Form of IF-IM, which the files do not say; docs/import.md tells how to find out."
    )] = None,
    epoch: Annotated[str | None, typer.Option(help="Default: the only one there is.")] = None,
    missing_frames: Annotated[str | None, typer.Option(
        metavar="a=45,v=50,t=22",
        help="Zero frames that stand for a missing modality; default: a=100,v=50,t=5.")] = None,
    statistics: Annotated[Path | None, typer.Option(
        metavar="FILE.h5",
        help="comparE_mean_std.h5, to put the fold's z-score of a into the checkpoint; without "
        "it inputs of a count as already standardised.")] = None,
    labels: Annotated[str | None, typer.Option(
        help="Names of the outputs, with commas; default: IEMOCAP's, for four.")] = None,
    overwrite: Annotated[bool, typer.Option(
        "--overwrite", help="Replace a file at --out.")] = False,
) -> None:
    """Make a checkpoint from one of the reference implementation."""
    if out.is_file() and not overwrite:
        raise OutputError(f"{out} exists; choose another --out or add --overwrite")
    found = import_released(
        directory,
        fold=fold,
        imagination=imagination,
        epoch=epoch,
        missing_frames=frames_by_modality("--missing-frames", missing_frames),
        statistics=statistics,
        labels=None if labels is None else [name.strip() for name in labels.split(",")],
    )
    save_checkpoint(out, found.network, found.training)
    for note in found.notes:
        log_line(note)
    config = found.network.config
    number = found.training["imported"]["epoch"]
    log_line(f"{config.architecture.model}, epoch {number}, answers {', '.join(config.labels)}")
    log_line(f"wrote {out}")
# fmt: on


main = entry_point(app, "ifmmin-train")

if __name__ == "__main__":
    sys.exit(main())
