"""Context that all graphs of one export share, and a graph with what is known of it."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from ifmmin.runtime.backends import Runner
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.bundle import BACKENDS, Features, GraphEntry
from ifmmin.runtime.errors import CheckpointError
from ifmmin.runtime.files import read_regular
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.train.model.network import EmotionNetwork

from .card import UNIT_SIZE
from .graph import OPSET, Plan, to_bytes
from .quantize.search import Choice
from .verify.corpus import Evaluator
from .verify.parity import Comparison, Evaluation, Limits, Violation, find_violations
from .verify.probes import CALIBRATION_SEEDS, Probes


@dataclass(frozen=True)
class ExportedGraph:
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
class ExportContext:
    """What all graphs of one export share."""

    network: EmotionNetwork
    probes: Probes
    metadata: Mapping[str, str]
    limits: Mapping[str, Limits]
    evaluator: Evaluator | None = None
    calibration: Sequence[Features] | None = None
    """Utterances with all modalities whose activations count; None: drawn ones."""
    chosen: dict[tuple[str, Pattern], tuple[str, ...]] = field(default_factory=dict)
    """Per precision and pattern the groups of operators found to bear 8 bits."""

    @cached_property
    def engine(self) -> OnnxRuntimeCpu:
        """What runs graphs to compare them; on any device the first to be trusted."""
        return OnnxRuntimeCpu()

    def load(self, model: onnx.ModelProto, precision: str) -> Runner:
        """A runner of a model."""
        literal = "onnxruntime-cpu" not in backends_of(precision)
        return self.engine.load(model.SerializeToString(), literal=literal)

    def load_whole(self, model: onnx.ModelProto) -> Runner:
        """A runner of a model in float32."""
        return self.engine.load(model.SerializeToString())

    @cached_property
    def calibration_inputs(self) -> list[Features]:
        """Inputs of all modalities that show what is computed; none is a probe."""
        if self.calibration is not None:
            return list(self.calibration)
        return [features for seed in CALIBRATION_SEEDS for features in self.probes.draw(seed)]

    def passes(self, choice: Choice, precision: str) -> bool:
        """Whether a precision's limits allow what a model loses."""
        limits = self.limits[precision]
        return not find_violations("", choice.comparison, choice.evaluation, limits)

    def finish(
        self,
        model: onnx.ModelProto,
        plan: Plan,
        key: tuple[str, Pattern | Modality, str, str],
        *,
        comparison: Comparison | None = None,
        parity: Mapping[str, Any] | None = None,
        evaluation: Evaluation | None = None,
        quantised: tuple[str, ...] = (),
    ) -> ExportedGraph:
        """The graph's file content and entry."""
        shape, subject, precision, recurrence = key
        about = {
            "name": f"ifmmin {subject} {shape} {precision}", "shape": shape,
            "subject": str(subject), "precision": precision, "recurrence": recurrence,
            **self.metadata,
        }  # fmt: skip
        if shape in ("latency", "throughput", "head"):
            about["pattern"] = str(subject)
        content = to_bytes(copy.deepcopy(model), about)
        record = comparison.as_record() if comparison else dict(parity or {})
        modalities = [subject] if isinstance(subject, Modality) else subject
        unit = [m.value for m in modalities if not self.network.knows_scale(m)]
        if unit:
            record[UNIT_SIZE] = unit
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
            quantised=quantised,
            parity=record,
            evaluation=dataclasses.asdict(evaluation) if evaluation else None,
        )
        made = ExportedGraph(content, entry, comparison)
        if comparison is not None:
            found = find_violations(made.name, comparison, evaluation, self.limits[precision])
            made.violations.extend(found)
        return made


def checkpoint_sha256(path: Path) -> str:
    """Of the file; CheckpointError where it cannot be read, or is none."""
    try:
        return hashlib.sha256(read_regular(path, CheckpointError)).hexdigest()
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}; train one with ifmmin-train fit") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror})") from error


def backends_of(precision: str) -> list[str]:
    """The backends that take graphs of a precision."""
    return [name for name, spec in BACKENDS.items() if precision in spec.precisions]


def file_name(key: tuple[str, Pattern | Modality, str, str]) -> str:
    """`a_t.latency.fp16.scan.onnx`; the plain forms of recurrence are not named."""
    shape, subject, precision, recurrence = key
    form = [recurrence] if recurrence == "scan" else []
    return ".".join([str(subject), shape, precision, *form, "onnx"])
