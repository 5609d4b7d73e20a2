"""The graphs of streams: steps and summaries of modalities, heads of patterns, proven together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from ifmmin.export.compare import Comparison
from ifmmin.export.drive import StreamProbes, run_head
from ifmmin.export.encoders import is_recurrent
from ifmmin.export.graph import to_model
from ifmmin.export.groups import DYNAMIC, PRODUCTS, operator_groups
from ifmmin.export.limits import judge
from ifmmin.export.precision import Precision
from ifmmin.export.probes import compare_probes
from ifmmin.export.quantise import Feed
from ifmmin.export.rounding import Rounding
from ifmmin.export.select import WHOLE, Choice, Reduction, choose_groups
from ifmmin.export.shapes import Plan, plan_head, plan_step, plan_summary
from ifmmin.export.stream_corpus import StreamCorpus
from ifmmin.export.weight_only import quantise_for_cpu
from ifmmin.export.workshop import ProvenGraph, Workshop
from ifmmin.runtime.backends import Runner
from ifmmin.runtime.modality import MODALITIES, Modality, Pattern
from ifmmin.runtime.step import ModalityStream

_STREAMS = 8
"""Utterances that are cut into chunks, beside those of the golden vectors."""
_LONG = 900
"""Frames of one that is longer."""
_SHARE = 0.25
"""Of a limit that the modalities' own graphs may use up in 8 bits; heads need the rest."""


class StreamSource:
    """The probes of streams, drawn when they are first wanted."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    @cached_property
    def probes(self) -> StreamProbes:
        """Ordinary utterances, golden ones and a long one, cut into chunks."""
        probes = self._shop.probes
        inputs = [*probes.golden_inputs(), *probes.stream_inputs(_STREAMS, _LONG)]
        return StreamProbes(probes.truth, inputs)


@dataclass(frozen=True)
class _Part:
    """A step or summary in float32, and how its weights are rounded."""

    model: onnx.ModelProto
    rounding: Rounding | None = None

    def reduce(self, reduction: Reduction) -> tuple[onnx.ModelProto, Reduction]:
        """With what it has of a reduction, and that."""
        own = reduction.within(operator_groups(self.model, DYNAMIC))
        return quantise_for_cpu(self.model, own, self.rounding), own


class StreamWorkshop:
    """The stream graphs of one precision."""

    def __init__(self, shop: Workshop, precision: Precision, source: StreamSource) -> None:
        self._shop = shop
        self._precision = precision
        self._probes = source.probes
        self._summaries: dict[Modality, NDArray[np.floating]] = {}
        self._heard: dict[Modality, list[NDArray[np.floating]]] = {}
        """Summaries in float32 of the calibration inputs."""
        evaluator = shop.evaluator
        self._corpus = StreamCorpus(shop, precision, evaluator) if evaluator is not None else None

    def modality(self, modality: Modality) -> list[ProvenGraph]:
        """Step and summary of a modality; the heads of the patterns that have it prove them."""
        shop, precision = self._shop, self._precision
        step_plan = plan_step(shop.network, modality, precision)
        summary_plan = plan_summary(shop.network, modality, precision)
        parts = _Part(to_model(step_plan)), _Part(to_model(summary_plan))
        reduction = WHOLE
        if precision.name == "int8":
            parts = self._hear(modality, step_plan, *parts)
            reduction = self._choose(modality, step_plan, *parts)
        (step, of_step), (summary, of_summary) = (part.reduce(reduction) for part in parts)
        self._summaries[modality] = self._summarise(modality, step_plan, step, summary)
        if self._corpus is not None:
            runs = self._load(step), self._load(summary)
            self._corpus.said[modality] = self._corpus.say(modality, step_plan, *runs)
        form = "lstm" if is_recurrent(shop.network, modality) else "none"
        return [
            self._finish(step, step_plan, "step", modality, form, of_step),
            self._finish(summary, summary_plan, "summary", modality, "none", of_summary),
        ]

    def head(self, pattern: Pattern) -> ProvenGraph:
        """The head of a pattern whose modalities were made before, compared after every chunk."""
        shop, name = self._shop, self._precision.name
        plan = plan_head(shop.network, pattern, self._precision)
        model = to_model(plan)
        if name == "int8":
            limits = shop.limits[name]
            rounding = shop.rounding(model, self._feeds(pattern))

            def build(reduction: Reduction) -> Choice:
                made = quantise_for_cpu(model, reduction, rounding)
                return self._measure(made, reduction, pattern)

            def passes(choice: Choice) -> bool:
                return not judge("", choice.comparison, choice.evaluation, limits)

            every = operator_groups(model, DYNAMIC)
            choice = choose_groups(every, build, passes, computable=every, weight_only=True)
            if not passes(choice):  # what is lost is lost before the head, or by any of it
                choice = self._measure(model, WHOLE, pattern)
        else:
            choice = self._measure(model, WHOLE, pattern)
        return shop.finish(
            choice.model,
            plan,
            ("head", pattern, name, "none"),
            comparison=choice.comparison,
            evaluation=choice.evaluation,
            reduction=choice.reduction,
        )

    def _measure(self, model: onnx.ModelProto, reduction: Reduction, pattern: Pattern) -> Choice:
        """A head on probes and, where there is one, on the corpus."""
        corpus = self._corpus
        evaluation = None if corpus is None else corpus.head(model, pattern)
        comparison = self._compare(model, pattern, self._summaries)
        return Choice(model, comparison, evaluation, reduction)

    def _hear(
        self, modality: Modality, plan: Plan, step: _Part, summary: _Part
    ) -> tuple[_Part, _Part]:
        """Step and summary with a rounding, by inputs of which the summaries are kept for heads."""
        shop = self._shop
        moments = shop.moments(step.model), shop.moments(summary.model)
        self._heard[modality] = heard = []
        for features in shop.calibration_inputs:
            pooled = ModalityStream(plan, moments[0]).push(features[modality][None])
            heard.append(moments[1]({"pooled": pooled})[0])
        made = [
            _Part(part.model, Rounding(seen))
            for part, seen in zip((step, summary), moments, strict=True)
        ]
        return made[0], made[1]

    def _feeds(self, pattern: Pattern) -> Iterator[Feed]:
        """What a head is given for the same inputs."""
        for index in range(len(self._shop.calibration_inputs)):
            yield {m.value: self._heard[m][index] for m in pattern}

    def _choose(self, modality: Modality, plan: Plan, step: _Part, summary: _Part) -> Reduction:
        """Groups of a step and a summary with 8 bits, by what the modality alone then says.

        So they do not depend on which patterns are exported. On a corpus every pattern that has the
        modality is asked: a summary that turns no answer of its own may turn one beside others.
        A step computes in float32: the scale of 8 bits is found in the frames of a call, so that an
        answer would depend on how they were pushed, and errors of a state would add up. One frame
        at a time it is not what takes the time.
        """
        alone = Pattern.of([modality])
        head = to_model(plan_head(self._shop.network, alone, self._precision))
        limits = self._shop.limits["int8"]
        limit = _SHARE * (limits.probabilities or 0.0)

        def build(reduction: Reduction) -> Choice:
            reduced = (part.reduce(reduction)[0] for part in (step, summary))
            said = self._summarise(modality, plan, *reduced)
            return Choice(head, self._compare(head, alone, {modality: said}), None, reduction)

        def passes(choice: Choice) -> bool:
            if choice.comparison.probability_max > limit:
                return False
            if self._corpus is None:
                return True
            runs = (self._load(part.reduce(choice.reduction)[0]) for part in (step, summary))
            said = self._corpus.say(modality, plan, *runs)
            return self._corpus.loss_of(modality, said) <= limits.ua + 1e-12

        of_summary = operator_groups(summary.model, PRODUCTS)
        every = operator_groups(step.model, DYNAMIC) | of_summary
        choice = choose_groups(every, build, passes, computable=of_summary, weight_only=True)
        return choice.reduction if passes(choice) else WHOLE

    def _summarise(
        self, modality: Modality, plan: Plan, step: onnx.ModelProto, summary: onnx.ModelProto
    ) -> NDArray[np.floating]:
        return self._probes.summaries(modality, plan, self._load(step), self._load(summary))

    def _load(self, model: onnx.ModelProto) -> Runner:
        return self._shop.load(model, self._precision.name)

    def _compare(
        self,
        head: onnx.ModelProto,
        pattern: Pattern,
        summaries: dict[Modality, NDArray[np.floating]],
    ) -> Comparison:
        found = run_head(self._load(head), pattern, summaries)
        return compare_probes(found, self._probes.of(pattern))

    def _finish(
        self,
        model: onnx.ModelProto,
        plan: Plan,
        shape: str,
        modality: Modality,
        form: str,
        reduction: Reduction,
    ) -> ProvenGraph:
        parity = {"proven_by": f"the head graphs of patterns with {modality}"}
        key = (shape, modality, self._precision.name, form)
        return self._shop.finish(model, plan, key, parity=parity, reduction=reduction)


def modalities_of(patterns: Sequence[Pattern]) -> list[Modality]:
    """The modalities that some patterns have, in canonical order."""
    return [m for m in MODALITIES if any(m in pattern for pattern in patterns)]
