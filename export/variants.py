"""One graph from plan to proof: traced, put into its precision, run, compared, judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray

from ifmmin.export.drive import run_alone, run_batches
from ifmmin.export.encoders import is_recurrent
from ifmmin.export.graph import to_model
from ifmmin.export.limits import judge
from ifmmin.export.precision import Precision
from ifmmin.export.probes import compare_probes
from ifmmin.export.quantise import DynamicQuantiser
from ifmmin.export.select import Choice, choose_groups
from ifmmin.export.shapes import plan_latency, plan_throughput
from ifmmin.export.static import StaticQuantiser
from ifmmin.export.workshop import ProvenGraph, Workshop
from ifmmin.runtime.batch import pad_batch
from ifmmin.runtime.bundle import Features
from ifmmin.runtime.modality import Pattern
from ifmmin.train.network import EmotionNetwork


def recurrence_of(network: EmotionNetwork, pattern: Pattern, wanted: str) -> str:
    """The form of a pattern's graph: `none` where nothing in it is recurrent."""
    return wanted if any(is_recurrent(network, m) for m in pattern) else "none"


def prove(
    shop: Workshop, shape: str, pattern: Pattern, precision: Precision, recurrence: str
) -> ProvenGraph:
    """A latency or throughput graph of a pattern."""
    plan = (plan_latency if shape == "latency" else plan_throughput)(
        shop.network, pattern, precision, recurrence
    )
    model = to_model(plan)
    measure = _measurer(shop, shape, pattern, precision)
    choice = (
        _quantised(shop, model, shape, pattern, precision, measure)
        if precision.name in ("int8", "int8-qdq")
        else measure(model)
    )
    key = (shape, pattern, precision.name, recurrence_of(shop.network, pattern, recurrence))
    return shop.finish(
        choice.model,
        plan,
        key,
        comparison=choice.comparison,
        evaluation=choice.evaluation,
        quantised=choice.quantised,
    )


Measure = Callable[..., Choice]


def _measurer(shop: Workshop, shape: str, pattern: Pattern, precision: Precision) -> Measure:
    """What runs a model of a pattern on probes and, where there is one, on the corpus."""
    drive = run_alone if shape == "latency" else run_batches
    probes = shop.probes.of(pattern)

    def measure(model: onnx.ModelProto, quantised: tuple[str, ...] = ()) -> Choice:
        run = shop.load(model, precision.name)
        evaluation = None
        if shop.evaluator is not None:
            evaluate = shop.evaluator.latency if shape == "latency" else shop.evaluator.throughput
            evaluation = evaluate(run, pattern)
        comparison = compare_probes(drive(run, probes), probes)
        return Choice(model, comparison, evaluation, quantised)

    return measure


def _quantised(
    shop: Workshop,
    model: onnx.ModelProto,
    shape: str,
    pattern: Pattern,
    precision: Precision,
    measure: Measure,
) -> Choice:
    """The model in 8 bits as far as the limits allow; a later shape begins with what the first
    one found."""
    quantiser = StaticQuantiser if precision.name == "int8-qdq" else DynamicQuantiser
    feeds = _feeds(shop.calibration_inputs, shape, pattern)
    quantise = quantiser(model, feeds, shop.load_whole)
    limits = shop.limits[precision.name]
    found = shop.chosen.get((precision.name, pattern), tuple(quantise.groups))
    choice = choose_groups(
        {name: quantise.groups[name] for name in found},
        lambda groups: measure(quantise(groups), groups),
        lambda made: not judge("", made.comparison, made.evaluation, limits),
    )
    shop.chosen[precision.name, pattern] = choice.quantised
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
