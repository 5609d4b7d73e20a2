"""Export of the graphs of streams: steps and summaries of modalities, heads of patterns.

They are proven together, on probes and on a corpus whose utterances are heard to their end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from ifmmin.runtime.backends import Runner
from ifmmin.runtime.bundle import MODALITY_SHAPES, Bundle, GraphEntry
from ifmmin.runtime.errors import OutputError
from ifmmin.runtime.modality import MODALITIES, Modality, Pattern
from ifmmin.runtime.stream.graphs import ModalityStream

from .context import ExportContext, ExportedGraph
from .graph import Plan, plan_head, plan_step, plan_summary, to_model
from .quantize.dynamic import DynamicQuantiser
from .quantize.groups import Inputs
from .quantize.search import Choice, choose_groups
from .specialise import is_recurrent
from .specialise.encoder import Precision
from .verify.corpus import Evaluator
from .verify.parity import Comparison, Evaluation
from .verify.probes import StreamProbes, compare_probes, run_head, run_summary

Said = Mapping[int, NDArray[np.floating]]
"""Summaries (S,) of one modality, by the position of the utterance."""


class StreamCorpus:
    """Measures summaries and heads of one precision on a corpus."""

    def __init__(self, context: ExportContext, precision: Precision, evaluator: Evaluator) -> None:
        self._context = context
        self._precision = precision
        self._evaluator = evaluator
        self._pooled = cache(self._pool)
        self._plain_said = cache(self.plain)
        self._plain_head = cache(self._load_head)
        self.said: dict[Modality, Said] = {}
        """What the graphs that will be written say."""

    def say(self, modality: Modality, summary: Runner) -> Said:
        """Summaries of every utterance that has a modality."""
        return {row: summary({"pooled": x})[0][0] for row, x in self._pooled(modality).items()}

    def head(self, model: onnx.ModelProto, pattern: Pattern) -> Evaluation:
        """Of a head, on what its modalities have `said`."""
        return self._evaluator.head(self._load(model), pattern, self.said)

    def loss_of(self, modality: Modality, said: Said) -> float:
        """Most UA that some pattern loses where only this modality speaks so.

        All patterns count, so that it does not depend on which are exported.
        """
        found = [
            self._evaluator.head(
                self._plain_head(pattern),
                pattern,
                {m: said if m == modality else self._plain_said(m) for m in pattern},
            )
            for pattern in self._context.network.config.patterns
            if modality in pattern and self._evaluator.covers(pattern)
        ]
        return max((evaluation.ua_loss for evaluation in found), default=0.0)

    def _pool(self, modality: Modality) -> Said:
        """What the step graph pools (1, P) of every utterance that has a modality."""
        plan = plan_step(self._context.network, modality, self._precision)
        run = self._load(to_model(plan))
        return {
            row: ModalityStream(plan, run).push(frames[None])
            for row, frames in self._evaluator.heard(modality).items()
        }

    def plain(self, modality: Modality) -> Said:
        """Summaries by a graph of which nothing is in 8 bits."""
        plan = plan_summary(self._context.network, modality, self._precision)
        return self.say(modality, self._load(to_model(plan)))

    def _load_head(self, pattern: Pattern) -> Runner:
        return self._load(to_model(plan_head(self._context.network, pattern, self._precision)))

    def _load(self, model: onnx.ModelProto) -> Runner:
        return self._context.load(model, self._precision.name)


def require_proven_heads(standing: Bundle | None, made: Sequence[ExportedGraph]) -> None:
    """OutputError where a step or summary would change under a head that is not made anew.

    How much of a step and a summary computes in 8 bits depends on the loss that is accepted, and
    other versions of the exporter may draw them otherwise; a head that stands knows only the old.
    """
    if standing is None:
        return
    stands = {entry.key: entry for entry in standing.manifest.graphs}
    fresh = {graph.entry.key: graph.entry for graph in made}
    changed = {
        (entry.subject, entry.precision)
        for key, entry in fresh.items()
        if entry.shape in MODALITY_SHAPES
        and key in stands
        and stands[key].sha256 != entry.sha256
    }  # fmt: skip
    stale = [e for k, e in stands.items() if k not in fresh and _hears(e, changed)]
    if not stale:
        return
    precisions = ", ".join(dict.fromkeys(entry.precision for entry in stale))
    patterns = list(dict.fromkeys(entry.subject for entry in stale))
    moved = ", ".join(dict.fromkeys(subject for subject, _ in sorted(changed)))
    raise OutputError(
        f"the {precisions} stream graphs of {moved} would change under the heads of "
        f"{', '.join(patterns)} at {standing.directory}, which were proven with those that stand; "
        f"nothing was written. Export them too with {' '.join(f'--pattern {p}' for p in patterns)},"
        " accept the same losses and evaluate on the same corpus as before, or add --overwrite"
    )


def _hears(entry: GraphEntry, changed: set[tuple[str, str]]) -> bool:
    """Whether it is a head of a modality whose step or summary changes."""
    if entry.shape != "head" or entry.pattern is None:
        return False
    return any((m.value, entry.precision) in changed for m in entry.pattern)


_STREAMS = 8
"""Utterances that are cut into chunks, beside those of the golden vectors."""
_LONG = 900
"""Frames of one that is longer."""
_SHARE = 0.25
"""Of a limit that a modality's summary may use up in 8 bits; heads need the rest."""


class StreamSource:
    """The probes of streams, drawn when they are first wanted."""

    def __init__(self, context: ExportContext) -> None:
        self._context = context

    @cached_property
    def probes(self) -> StreamProbes:
        """Ordinary utterances, golden ones and a long one, cut into chunks."""
        probes = self._context.probes
        inputs = [*probes.golden_inputs(), *probes.stream_inputs(_STREAMS, _LONG)]
        return StreamProbes(probes.truth, inputs)


class StreamExporter:
    """The stream graphs of one precision.

    In int8 summaries and heads compute in 8 bits. A step computes in float32: the scale of 8 bits
    is found in the frames of a call, so that an answer would depend on how they were pushed, and
    errors of a state would add up. One frame at a time it is not what takes the time.
    """

    def __init__(self, context: ExportContext, precision: Precision, source: StreamSource) -> None:
        self._context = context
        self._precision = precision
        self._probes = source.probes
        self._summaries: dict[Modality, NDArray[np.floating]] = {}
        self._heard: dict[Modality, list[NDArray[np.floating]]] = {}
        """Summaries (1, S) in float32 of the calibration inputs."""
        evaluator = context.evaluator
        self._corpus = (
            StreamCorpus(context, precision, evaluator) if evaluator is not None else None
        )

    def modality(self, modality: Modality) -> list[ExportedGraph]:
        """Step and summary of a modality; the heads of the patterns that have it prove them."""
        context, name = self._context, self._precision.name
        step_plan = plan_step(context.network, modality, self._precision)
        summary_plan = plan_summary(context.network, modality, self._precision)
        step, summary = to_model(step_plan), to_model(summary_plan)
        pooled = self._probes.pooled(modality, step_plan, self._load(step))
        quantised: tuple[str, ...] = ()
        if name == "int8":
            feeds = self._calibration(modality, step_plan, step)
            run = context.load_whole(summary)
            self._heard[modality] = [run(feed)[0] for feed in feeds]
            summary, quantised = self._reduced(modality, summary, feeds, pooled)
        self._summaries[modality] = run_summary(self._load(summary), pooled)
        if self._corpus is not None:
            self._corpus.said[modality] = self._corpus.say(modality, self._load(summary))
        form = "lstm" if is_recurrent(context.network, modality) else "none"
        parity = {"proven_by": f"the head graphs of patterns with {modality}"}
        key = ("summary", modality, name, "none")
        return [
            context.finish(step, step_plan, ("step", modality, name, form), parity=parity),
            context.finish(summary, summary_plan, key, parity=parity, quantised=quantised),
        ]

    def head(self, pattern: Pattern) -> ExportedGraph:
        """The head of a pattern whose modalities were made before, compared after every chunk."""
        context, name = self._context, self._precision.name
        plan = plan_head(context.network, pattern, self._precision)
        model = to_model(plan)
        choice = self._measure(model, pattern)
        if name == "int8":
            rows = zip(*(self._heard[m] for m in pattern), strict=True)
            feeds = [{m.value: x for m, x in zip(pattern, row, strict=True)} for row in rows]
            quantise = DynamicQuantiser(model, feeds, context.load_whole)

            def build(groups: tuple[str, ...]) -> Choice:
                return self._measure(quantise(groups), pattern, groups)

            reduced = choose_groups(quantise.groups, build, lambda made: context.passes(made, name))
            # Else what is lost is lost before the head, or by any of it.
            if context.passes(reduced, name):
                choice = reduced
        return context.finish(
            choice.model,
            plan,
            ("head", pattern, name, "none"),
            comparison=choice.comparison,
            evaluation=choice.evaluation,
            quantised=choice.quantised,
        )

    def _measure(
        self, model: onnx.ModelProto, pattern: Pattern, quantised: tuple[str, ...] = ()
    ) -> Choice:
        """A head on probes and, where there is one, on the corpus."""
        corpus = self._corpus
        evaluation = None if corpus is None else corpus.head(model, pattern)
        comparison = self._compare(model, pattern, self._summaries)
        return Choice(model, comparison, evaluation, quantised)

    def _calibration(self, modality: Modality, plan: Plan, step: onnx.ModelProto) -> list[Inputs]:
        """What a summary is given for the calibration inputs."""
        run, inputs = self._context.load_whole(step), self._context.calibration_inputs
        return [{"pooled": ModalityStream(plan, run).push(x[modality][None])} for x in inputs]

    def _reduced(
        self,
        modality: Modality,
        summary: onnx.ModelProto,
        feeds: Sequence[Inputs],
        pooled: Sequence[NDArray[np.floating]],
    ) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        """A summary with 8 bits as far as what the modality alone then says bears it, and groups.

        So they do not depend on which patterns are exported. On a corpus every pattern that has the
        modality is asked: a summary that turns no answer of its own may turn one beside others.
        """
        alone = Pattern.of([modality])
        head = to_model(plan_head(self._context.network, alone, self._precision))
        limits = self._context.limits["int8"]
        limit = _SHARE * (limits.probabilities or 0.0)
        quantise = DynamicQuantiser(summary, feeds, self._context.load_whole)

        def build(groups: tuple[str, ...]) -> Choice:
            made = quantise(groups)
            said = run_summary(self._load(made), pooled)
            return Choice(made, self._compare(head, alone, {modality: said}), quantised=groups)

        def passes(choice: Choice) -> bool:
            if choice.comparison.probability_max > limit:
                return False
            if self._corpus is None:
                return True
            said = self._corpus.say(modality, self._load(choice.model))
            return self._corpus.loss_of(modality, said) <= limits.ua + 1e-12

        choice = choose_groups(quantise.groups, build, passes)
        return (choice.model, choice.quantised) if passes(choice) else (summary, ())

    def _load(self, model: onnx.ModelProto) -> Runner:
        return self._context.load(model, self._precision.name)

    def _compare(
        self,
        head: onnx.ModelProto,
        pattern: Pattern,
        summaries: Mapping[Modality, NDArray[np.floating]],
    ) -> Comparison:
        found = run_head(self._load(head), pattern, summaries)
        return compare_probes(found, self._probes.of(pattern))


def modalities_of(patterns: Sequence[Pattern]) -> list[Modality]:
    """The modalities that some patterns have, in canonical order."""
    return [m for m in MODALITIES if any(m in pattern for pattern in patterns)]
