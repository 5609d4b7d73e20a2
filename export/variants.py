"""One graph from plan to proof: traced, put into its precision, run, compared, judged."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx
from numpy.typing import NDArray

from ifmmin.export.compare import Comparison
from ifmmin.export.drive import run_alone, run_batches
from ifmmin.export.encoders import is_recurrent
from ifmmin.export.evaluate_on import Evaluator
from ifmmin.export.graph import OPSET, to_bytes, to_model
from ifmmin.export.groups import DYNAMIC, STATIC, operator_groups
from ifmmin.export.limits import Evaluation, Limits, Violation, judge
from ifmmin.export.moments import Moments
from ifmmin.export.precision import Precision
from ifmmin.export.probes import Probes, compare_probes
from ifmmin.export.quantise import Feed, quantise_static
from ifmmin.export.rounding import Rounding
from ifmmin.export.select import WHOLE, Choice, Reduction, choose_groups
from ifmmin.export.shapes import Plan, plan_latency, plan_throughput
from ifmmin.export.weight_only import quantise_for_cpu
from ifmmin.runtime.backends import Runner
from ifmmin.runtime.backends.onnx_runtime import OnnxRuntimeCpu
from ifmmin.runtime.batch import pad_batch
from ifmmin.runtime.bundle import Features
from ifmmin.runtime.manifest import BACKENDS, GraphEntry
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.train.network import EmotionNetwork

_CALIBRATION_SEED = 1
"""Of the inputs that show what activations are like, where no corpus does; probes have 0."""


@dataclass(frozen=True)
class ProvenGraph:
    """A graph with what is known of it; it may be written when nothing is violated."""

    content: bytes
    entry: GraphEntry
    comparison: Comparison | None
    """None for step and summary graphs, which are proven together with a head."""
    violations: list[Violation] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As in tables."""
        return " ".join(part for part in self.entry.key if part not in ("none", "lstm"))


@dataclass
class Workshop:
    """What all graphs of one export share."""

    network: EmotionNetwork
    probes: Probes
    metadata: Mapping[str, str]
    limits: Mapping[str, Limits]
    evaluator: Evaluator | None = None
    calibration: Sequence[Features] | None = None
    """Utterances with all modalities whose activations count; None: drawn ones."""
    chosen: dict[tuple[str, Pattern], Reduction] = field(default_factory=dict)
    """Per precision and pattern the groups of operators found to bear 8 bits."""

    @cached_property
    def engine(self) -> OnnxRuntimeCpu:
        """What runs graphs to compare them; on any device the first to be trusted."""
        return OnnxRuntimeCpu()

    def load(self, model: onnx.ModelProto, precision: str) -> Runner:
        """A runner of a model."""
        literal = "onnxruntime-cpu" not in backends_of(precision)
        return self.engine.load(model.SerializeToString(), literal=literal)

    @cached_property
    def calibration_inputs(self) -> list[Features]:
        """Inputs of all modalities that show what activations are like; none is a probe."""
        if self.calibration is not None:
            return list(self.calibration)
        return Probes(self.network, seed=_CALIBRATION_SEED).ordinary_inputs()

    def rounding(self, model: onnx.ModelProto, feeds: Iterable[Feed]) -> Rounding:
        """How to round the weights of a model in float32 by what they multiply for some inputs."""
        moments = self.moments(model)
        for feed in feeds:
            moments(feed)
        return Rounding(moments)

    def moments(self, model: onnx.ModelProto) -> Moments:
        """A model in float32 that keeps what its weights multiply."""
        return Moments(model, lambda made: self.engine.load(made.SerializeToString()))

    def finish(
        self,
        model: onnx.ModelProto,
        plan: Plan,
        key: tuple[str, Pattern | Modality, str, str],
        *,
        comparison: Comparison | None = None,
        parity: Mapping[str, Any] | None = None,
        evaluation: Evaluation | None = None,
        reduction: Reduction = WHOLE,
    ) -> ProvenGraph:
        """The graph's file content and entry."""
        shape, subject, precision, recurrence = key
        about = {
            "name": f"ifmmin {subject} {shape} {precision}",
            "shape": shape,
            "subject": str(subject),
            "precision": precision,
            "recurrence": recurrence,
            **self.metadata,
        }
        if shape in ("latency", "throughput", "head"):
            about["pattern"] = str(subject)
        content = to_bytes(copy.deepcopy(model), about)
        record = comparison.as_record() if comparison else dict(parity or {})
        entry = GraphEntry(
            shape=shape,
            subject=str(subject),
            precision=precision,
            recurrence=recurrence,
            file=file_name(key),
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            opset=OPSET,
            inputs=plan.inputs,
            outputs=plan.outputs,
            states=plan.states,
            quantised=reduction.computed,
            weight_only=dict(reduction.weight_only),
            parity=record,
            evaluation=dataclasses.asdict(evaluation) if evaluation else None,
        )
        made = ProvenGraph(content, entry, comparison)
        if comparison is not None:
            found = judge(made.name, comparison, evaluation, self.limits[precision])
            made.violations.extend(found)
        return made


def backends_of(precision: str) -> list[str]:
    """The backends that take graphs of a precision."""
    return [name for name, spec in BACKENDS.items() if precision in spec.precisions]


def file_name(key: tuple[str, Pattern | Modality, str, str]) -> str:
    """`a_t.latency.fp16.scan.onnx`; the plain forms of recurrence are not named."""
    shape, subject, precision, recurrence = key
    form = [recurrence] if recurrence == "scan" else []
    return ".".join([str(subject), shape, precision, *form, "onnx"])


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
        else measure(model, WHOLE)
    )
    key = (shape, pattern, precision.name, recurrence_of(shop.network, pattern, recurrence))
    return shop.finish(
        choice.model,
        plan,
        key,
        comparison=choice.comparison,
        evaluation=choice.evaluation,
        reduction=choice.reduction,
    )


Measure = Callable[[onnx.ModelProto, Reduction], Choice]


def _measurer(shop: Workshop, shape: str, pattern: Pattern, precision: Precision) -> Measure:
    """What runs a model of a pattern on probes and, where there is one, on the corpus."""
    drive = run_alone if shape == "latency" else run_batches
    probes = shop.probes.of(pattern)

    def measure(model: onnx.ModelProto, reduction: Reduction) -> Choice:
        run = shop.load(model, precision.name)
        evaluation = None
        if shop.evaluator is not None:
            evaluate = shop.evaluator.latency if shape == "latency" else shop.evaluator.throughput
            evaluation = evaluate(run, pattern)
        comparison = compare_probes(drive(run, probes), probes)
        return Choice(model, comparison, evaluation, reduction)

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
    static = precision.name == "int8-qdq"
    feeds = _feeds(shop, shape, pattern)
    rounding = None if static else shop.rounding(model, feeds)
    limits = shop.limits[precision.name]

    def build(reduction: Reduction) -> Choice:
        if static:
            made = quantise_static(model, reduction.computed, feeds)
        else:
            made = quantise_for_cpu(model, reduction, rounding)
        return measure(made, reduction)

    every = operator_groups(model, STATIC if static else DYNAMIC)
    standing = shop.chosen.get((precision.name, pattern))
    choice = choose_groups(
        every,
        build,
        lambda made: not judge("", made.comparison, made.evaluation, limits),
        computable=every if standing is None else standing.computed,
        weight_only=not static,
    )
    shop.chosen[precision.name, pattern] = choice.reduction
    return choice


def _feeds(shop: Workshop, shape: str, pattern: Pattern) -> list[dict[str, NDArray[Any]]]:
    inputs = [{m: x[m] for m in pattern} for x in shop.calibration_inputs if _has(x, pattern)]
    if shape == "latency":
        return [{m.value: array for m, array in features.items()} for features in inputs]
    return [pad_batch([features]) for features in inputs]


def _has(features: Features, pattern: Pattern) -> bool:
    return all(m in features for m in pattern)
