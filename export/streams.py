"""The graphs of streams: steps and summaries of modalities, heads of patterns, proven together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from ifmmin.export.compare import Comparison
from ifmmin.export.drive import StreamProbes, run_head
from ifmmin.export.encoders import is_recurrent
from ifmmin.export.graph import to_model
from ifmmin.export.limits import judge
from ifmmin.export.precision import Precision
from ifmmin.export.probes import compare_probes
from ifmmin.export.quantise import DYNAMIC, PRODUCTS, operator_groups, quantise_dynamic
from ifmmin.export.select import Choice, choose_groups
from ifmmin.export.shapes import Plan, plan_head, plan_step, plan_summary
from ifmmin.export.stream_corpus import StreamCorpus
from ifmmin.export.variants import ProvenGraph, Workshop
from ifmmin.runtime.backends import Runner
from ifmmin.runtime.modality import MODALITIES, Modality, Pattern

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


class StreamWorkshop:
    """The stream graphs of one precision."""

    def __init__(self, shop: Workshop, precision: Precision, source: StreamSource) -> None:
        self._shop = shop
        self._precision = precision
        self._probes = source.probes
        self._summaries: dict[Modality, NDArray[np.floating]] = {}
        evaluator = shop.evaluator
        self._corpus = StreamCorpus(shop, precision, evaluator) if evaluator is not None else None

    def modality(self, modality: Modality) -> list[ProvenGraph]:
        """Step and summary of a modality; the heads of the patterns that have it prove them."""
        shop, precision = self._shop, self._precision
        step_plan = plan_step(shop.network, modality, precision)
        summary_plan = plan_summary(shop.network, modality, precision)
        step, summary = to_model(step_plan), to_model(summary_plan)
        reduced: tuple[str, ...] = ()
        if precision.name == "int8":
            reduced = self._choose(modality, step_plan, step, summary)
        step, of_step = _reduce(step, reduced)
        summary, of_summary = _reduce(summary, reduced)
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

            def build(chosen: Sequence[str]) -> Choice:
                return self._measure(quantise_dynamic(model, chosen), chosen, pattern)

            def passes(choice: Choice) -> bool:
                return not judge("", choice.comparison, choice.evaluation, limits)

            choice = choose_groups(
                operator_groups(model, DYNAMIC),
                build,
                passes,
            )
            if not passes(choice):  # what is lost is lost before the head, or by any of it
                choice = self._measure(model, (), pattern)
        else:
            choice = self._measure(model, (), pattern)
        return shop.finish(
            choice.model,
            plan,
            ("head", pattern, name, "none"),
            comparison=choice.comparison,
            evaluation=choice.evaluation,
            quantised=choice.groups,
        )

    def _measure(self, model: onnx.ModelProto, groups: Sequence[str], pattern: Pattern) -> Choice:
        """A head on probes and, where there is one, on the corpus."""
        corpus = self._corpus
        evaluation = None if corpus is None else corpus.head(model, pattern)
        comparison = self._compare(model, pattern, self._summaries)
        return Choice(model, tuple(groups), comparison, evaluation)

    def _choose(
        self, modality: Modality, plan: Plan, step: onnx.ModelProto, summary: onnx.ModelProto
    ) -> tuple[str, ...]:
        """Groups of a step and a summary in 8 bits, by what the modality alone then says.

        So they do not depend on which patterns are exported. On a corpus every pattern that has the
        modality is asked: a summary that turns no answer of its own may turn one beside others.
        An LSTM stays as it is: errors of its
        states would add up over a stream, and one frame at a time it is not what takes the time.
        """
        alone = Pattern.of([modality])
        head = to_model(plan_head(self._shop.network, alone, self._precision))
        limits = self._shop.limits["int8"]
        limit = _SHARE * (limits.probabilities or 0.0)

        def build(groups: Sequence[str]) -> Choice:
            reduced = _reduce(step, groups)[0], _reduce(summary, groups)[0]
            said = self._summarise(modality, plan, *reduced)
            return Choice(head, tuple(groups), self._compare(head, alone, {modality: said}))

        def passes(choice: Choice) -> bool:
            if choice.comparison.probability_max > limit:
                return False
            if self._corpus is None:
                return True
            runs = (self._load(_reduce(g, choice.groups)[0]) for g in (step, summary))
            said = self._corpus.say(modality, plan, *runs)
            return self._corpus.loss_of(modality, said) <= limits.ua + 1e-12

        every = operator_groups(step, PRODUCTS) | operator_groups(summary, PRODUCTS)
        choice = choose_groups(every, build, passes)
        return choice.groups if passes(choice) else ()

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
        groups: tuple[str, ...],
    ) -> ProvenGraph:
        parity = {"proven_by": f"the head graphs of patterns with {modality}"}
        key = (shape, modality, self._precision.name, form)
        return self._shop.finish(model, plan, key, parity=parity, quantised=groups)


def _reduce(
    model: onnx.ModelProto, groups: Sequence[str]
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model with those of some groups that it has in 8 bits."""
    own = tuple(group for group in operator_groups(model, PRODUCTS) if group in groups)
    return (quantise_dynamic(model, own), own) if own else (model, ())


def modalities_of(patterns: Sequence[Pattern]) -> list[Modality]:
    """The modalities that some patterns have, in canonical order."""
    return [m for m in MODALITIES if any(m in pattern for pattern in patterns)]
