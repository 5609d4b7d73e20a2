"""Export of a checkpoint to a bundle: every graph is proven first, then all are written at once.

A graph is traced, put into its precision, run, compared with its network and checked by the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from ifmmin.runtime.backends.tensorrt_api import load_tensorrt
from ifmmin.runtime.bundle import EngineEntry, Features, MissingSpec, ModalitySpec, shipped
from ifmmin.runtime.bundle.graph_file import graph_metadata
from ifmmin.runtime.console import Advance, progress
from ifmmin.runtime.errors import CheckpointError, CorpusError, InputError
from ifmmin.runtime.files import require_writable
from ifmmin.runtime.frontends.spec import FrontEndSpec
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.runtime.validate import pad_batch
from ifmmin.train.checkpoint import Header, load_checkpoint
from ifmmin.train.model.network import EmotionNetwork

from .context import ExportContext, ExportedGraph, checkpoint_sha256
from .frontends.files import CarriedFiles
from .graph import plan_latency, plan_throughput, to_model
from .quantize.dynamic import DynamicQuantiser
from .quantize.search import Choice, choose_groups
from .quantize.static import StaticQuantiser
from .specialise import is_recurrent
from .specialise.encoder import PRECISIONS, Precision
from .streams import StreamExporter, StreamSource, modalities_of, require_proven_heads
from .verify.corpus import CorpusChoice, Evaluator, utterance_features, watch_sample
from .verify.missing import measure_missing, require_settled, with_missing_frames
from .verify.parity import allowed, require
from .verify.probes import Probes, compare_probes, run_alone, run_batches
from .writer import (
    BuiltAhead,
    BundleWriter,
    build_ahead,
    graphs_for,
    modality_specs,
    prior_of,
    standing_bundle,
)


def recurrence_of(network: EmotionNetwork, pattern: Pattern, wanted: str) -> str:
    """The form of a pattern's graph: `none` where nothing in it is recurrent."""
    return wanted if any(is_recurrent(network, m) for m in pattern) else "none"


def export_graph(
    context: ExportContext, shape: str, pattern: Pattern, precision: Precision, recurrence: str
) -> ExportedGraph:
    """A latency or throughput graph of a pattern."""
    plan = (plan_latency if shape == "latency" else plan_throughput)(
        context.network, pattern, precision, recurrence
    )
    model = to_model(plan)
    measure = _measurer(context, shape, pattern, precision)
    choice = (
        _quantised(context, model, shape, pattern, precision, measure)
        if precision.name in ("int8", "int8-qdq")
        else measure(model)
    )
    key = (shape, pattern, precision.name, recurrence_of(context.network, pattern, recurrence))
    return context.finish(
        choice.model,
        plan,
        key,
        comparison=choice.comparison,
        evaluation=choice.evaluation,
        quantised=choice.quantised,
    )


Measure = Callable[..., Choice]


def _measurer(
    context: ExportContext, shape: str, pattern: Pattern, precision: Precision
) -> Measure:
    """What runs a model of a pattern on probes and, where there is one, on the corpus."""
    drive = run_alone if shape == "latency" else run_batches
    probes = context.probes.of(pattern)

    def measure(model: onnx.ModelProto, quantised: tuple[str, ...] = ()) -> Choice:
        run = context.load(model, precision.name)
        evaluation = None
        if context.evaluator is not None:
            evaluate = (
                context.evaluator.latency if shape == "latency" else context.evaluator.throughput
            )
            evaluation = evaluate(run, pattern)
        comparison = compare_probes(drive(run, probes), probes)
        return Choice(model, comparison, evaluation, quantised)

    return measure


def _quantised(
    context: ExportContext,
    model: onnx.ModelProto,
    shape: str,
    pattern: Pattern,
    precision: Precision,
    measure: Measure,
) -> Choice:
    """The model in 8 bits as far as the limits allow; a later shape begins with what the first
    one found."""
    quantiser = StaticQuantiser if precision.name == "int8-qdq" else DynamicQuantiser
    feeds = _feeds(context.calibration_inputs, shape, pattern)
    quantise = quantiser(model, feeds, context.load_whole)
    found = context.chosen.get((precision.name, pattern), tuple(quantise.groups))
    choice = choose_groups(
        {name: quantise.groups[name] for name in found},
        lambda groups: measure(quantise(groups), groups),
        lambda made: context.passes(made, precision.name),
    )
    context.chosen[precision.name, pattern] = choice.quantised
    return choice


def _feeds(
    given: Sequence[Features], shape: str, pattern: Pattern
) -> list[dict[str, NDArray[Any]]]:
    inputs = [{m: x[m] for m in pattern} for x in given if _has(x, pattern)]
    if shape == "latency":
        return [{m.value: array for m, array in features.items()} for features in inputs]
    return [pad_batch([features]) for features in inputs]


def _has(features: Features, pattern: Pattern) -> bool:
    return all(m in features for m in pattern)


UTTERANCES = ("latency", "throughput")
STREAM = "stream"
SHAPES = (*UTTERANCES, STREAM)
"""What can be asked for; `stream` means steps, summaries and heads."""
DEFAULT_SHAPES = ("latency", STREAM)
"""What is made where nobody asks; batches cost as much disk again as single utterances."""


@dataclass(frozen=True)
class Request:
    """What to export, beside the patterns."""

    precisions: Sequence[str] = ("fp32",)
    """Of `fp32`, `fp16`, `int8`, `int8-qdq`."""
    shapes: Sequence[str] = DEFAULT_SHAPES
    """Of `latency`, `throughput`, `stream`."""
    recurrences: Sequence[str] = ()
    """Forms of recurrence; empty: the one that backends of the precision take first."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Figures that may lose more than the defaults, by name; see `limits`."""
    evaluate_on: CorpusChoice | None = None
    """Corpus on whose test part accuracy is measured."""
    calibrate_on: CorpusChoice | None = None
    """Corpus whose training part sets the ranges of int8-qdq; None: the probes."""
    sample: str | None = None
    """Utterances that show what features are like, as ifmmin-run takes them; for checkpoints that
    do not know, since they were imported."""
    missing_frames: Mapping[Modality, int] = field(default_factory=dict)
    """Zero frames that stand for a missing modality; else the checkpoint's."""
    engine: str | None = None
    """Engine to build ahead of time from the graphs it takes first: `tensorrt-rtx`."""
    targets: Sequence[str] = ()
    """Compute capabilities for it; empty: its own default."""
    licence: str | None = None
    """Of the weights, for the model card."""
    frontends: Mapping[Modality, Path] = field(default_factory=dict)
    """Folders of front-ends whose files the bundle that ships has not."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    graphs: list[ExportedGraph]
    engines: list[EngineEntry]
    missing: dict[Modality, MissingSpec]
    unobserved: list[Modality]
    """Modalities of which nobody said what features are like: their probes are of unit size."""


def export_bundle(
    checkpoint: Path,
    patterns: Sequence[Pattern] | None,
    out: Path,
    *,
    overwrite: bool = False,
    request: Request | None = None,
) -> Exported:
    """Export some patterns of a checkpoint, or all that it knows, into the bundle at `out`.

    A bundle of the same checkpoint that stands there keeps its other graphs; one of another
    checkpoint is replaced with `overwrite` only, anything else in the way is refused. Raises
    CheckpointError, CorpusError, ParityError, EngineError, BackendUnavailable, InputError (for a
    request of nothing) or OutputError, and then nothing is written.
    """
    request = request or Request()
    if request.engine is not None:
        load_tensorrt(request.engine)  # before long work, not after it
    sha256 = checkpoint_sha256(checkpoint)
    network, header = load_checkpoint(checkpoint)
    if network.config.architecture.model == "linear":
        raise CheckpointError(
            f"{checkpoint} holds the model linear, the baseline of sweeps, which has no graphs; "
            "give a checkpoint of a network, such as ifmmin-train fit --model if-mmin writes"
        )
    if network.config.architecture.contrasts:
        raise CheckpointError(
            f"{checkpoint} holds the model cif-mmin, a baseline, whose graph has nothing to leave "
            "out; give one of another network, such as ifmmin-train fit --model if-mmin writes"
        )
    patterns = _known(network, patterns)
    if request.sample is not None:
        watch_sample(network, request.sample)
    with_missing_frames(network, request.missing_frames)
    missing = measure_missing(network)
    require_settled(header, missing, request.missing_frames)
    standing = standing_bundle(out, sha256, missing, overwrite=overwrite)
    require_writable(out)
    carried = CarriedFiles(_frontends(network), request.frontends, [shipped(), out])
    context = _context(network, header, sha256, missing, request)
    jobs = _count(network, patterns, request)
    if not jobs:
        raise InputError(
            "int8-qdq has no graphs for streams, so nothing is left to export; add --shape latency"
        )
    with progress("export", jobs) as advance:
        made = _prove_all(context, patterns, request, advance)
    require([violation for graph in made for violation in graph.violations])
    require_proven_heads(standing, made)
    engines = _build_engines(made, modality_specs(network, missing), request)
    writer = BundleWriter(
        network, header, sha256, missing, context.probes, request.licence, carried
    )
    writer.write(out, made, engines, standing)
    taken = modalities_of(patterns)
    unobserved = [m for m in taken if not network.knows_scale(m)]
    return Exported(made, [engine.entry for engine in engines], missing, unobserved)


def _known(network: EmotionNetwork, patterns: Sequence[Pattern] | None) -> Sequence[Pattern]:
    """The patterns asked for, or all of the network; CheckpointError for one that it lacks."""
    every = network.config.patterns
    for pattern in patterns or ():
        if pattern not in every:
            raise CheckpointError(
                f"the checkpoint takes {', '.join(network.modalities)}, so it has no pattern "
                f"{pattern}; give one of {', '.join(map(str, every))}"
            )
    return every if patterns is None else patterns


def _frontends(network: EmotionNetwork) -> dict[Modality, FrontEndSpec]:
    """The front-ends that the checkpoint names."""
    named = {m: feature.frontend for m, feature in network.config.features.items()}
    return {m: spec for m, spec in named.items() if spec is not None}


def _build_engines(
    made: Sequence[ExportedGraph], specs: Mapping[Modality, ModalitySpec], request: Request
) -> list[BuiltAhead]:
    if request.engine is None:
        return []
    graphs = graphs_for(request.engine, made)
    with progress("engines", len(graphs)) as advance:
        return build_ahead(request.engine, graphs, specs, request.targets, advance)


def _context(
    network: EmotionNetwork,
    header: Header,
    sha256: str,
    missing: Mapping[Modality, MissingSpec],
    request: Request,
) -> ExportContext:
    evaluator = None
    if request.evaluate_on is not None:
        corpus = request.evaluate_on.load(network, header)
        evaluator = Evaluator(network, corpus, request.evaluate_on.fold_of(header))
    calibration = _calibration(network, header, request)
    return ExportContext(
        network=network,
        probes=Probes(network),  # after corpora, which may say what features are like
        metadata=graph_metadata(
            network.config.labels, prior_of(header), modality_specs(network, missing), sha256
        ),
        limits={name: allowed(name, request.losses) for name in PRECISIONS},
        evaluator=evaluator,
        calibration=calibration,
    )


def _calibration(
    network: EmotionNetwork, header: Header, request: Request
) -> list[Features] | None:
    """Training utterances with all modalities; None where no corpus was given."""
    if request.calibrate_on is None:
        return None
    corpus = request.calibrate_on.load(network, header)
    whole = network.config.patterns[-1]
    complete = [u for u in corpus.parts["train"] if all(m in u.features for m in whole)]
    if not complete:
        raise CorpusError(
            f"no training utterance has all of {', '.join(whole)}; leave out --calibrate"
        )
    step = max(1, len(complete) // 100)
    return [utterance_features(u, whole, network) for u in complete[::step]]


def _prove_all(
    context: ExportContext, patterns: Sequence[Pattern], request: Request, advance: Advance
) -> list[ExportedGraph]:
    made: list[ExportedGraph] = []
    source = StreamSource(context)

    def keep(*graphs: ExportedGraph) -> None:
        for graph in graphs:
            made.append(graph)
            comparison = graph.comparison
            note = f" {comparison.max_difference:.1e}" if comparison else ""
            advance(f"{graph.name}{note}")

    for name in request.precisions:
        precision = PRECISIONS[name]
        for pattern in patterns:
            for shape in _utterance_shapes(request):
                for recurrence in _recurrences(context.network, pattern, precision, request):
                    keep(export_graph(context, shape, pattern, precision, recurrence))
        if _streams(name, request):
            stream = StreamExporter(context, precision, source)
            for modality in modalities_of(patterns):
                keep(*stream.modality(modality))
            for pattern in patterns:
                keep(stream.head(pattern))
    return list({graph.entry.key: graph for graph in made}.values())


def _recurrences(
    network: EmotionNetwork, pattern: Pattern, precision: Precision, request: Request
) -> list[str]:
    """The forms of a pattern's graphs; where nothing in it is recurrent, one stands for all."""
    wanted = request.recurrences or (precision.recurrence,)
    forms = {recurrence_of(network, pattern, form): form for form in wanted}
    return list(forms.values())


def _count(network: EmotionNetwork, patterns: Sequence[Pattern], request: Request) -> int:
    """How many graphs will be made, for the bar."""
    shapes = len(_utterance_shapes(request))
    modalities = len({m for pattern in patterns for m in pattern})
    total = 0
    for name in request.precisions:
        for pattern in patterns:
            total += shapes * len(_recurrences(network, pattern, PRECISIONS[name], request))
        if _streams(name, request):
            total += 2 * modalities + len(patterns)
    return total


def _utterance_shapes(request: Request) -> list[str]:
    return [shape for shape in UTTERANCES if shape in request.shapes]


def _streams(precision: str, request: Request) -> bool:
    """Whether stream graphs are made; TensorRT in 8 bits is for many utterances at a time."""
    return STREAM in request.shapes and precision != "int8-qdq"
