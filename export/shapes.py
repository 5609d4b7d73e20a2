"""What is traced for each shape of graph: a module with its inputs, outputs and free axes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ifmmin.export.encoders import ExportEncoder
from ifmmin.export.precision import Precision
from ifmmin.export.specialise import (
    SpecialisedNetwork,
    specialise,
    stream_encoder,
    stream_head,
    stream_summary,
)
from ifmmin.runtime.manifest import StateSpec, TensorSpec
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.train.network import EmotionNetwork

LOGITS = "logits"
_SIZES = {"B": 2, "N": 6, "S": 3}
"""Sizes of free axes while tracing; time takes _FRAMES. None may be 1, which could be frozen."""
_FRAMES = 7


@dataclass(frozen=True)
class Plan:
    """A module to be traced, and what its graph will be."""

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...] = ()

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace with."""
        return tuple(_example(spec) for spec in self.inputs)


class _Throughput(nn.Module):
    def __init__(self, network: SpecialisedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        count = len(self.network.pattern)
        return self.network.batch(inputs[:count], inputs[count:])


class _Step(nn.Module):
    """States cross the border in float32, whatever the graph computes in."""

    def __init__(self, encoder: ExportEncoder, precision: Precision) -> None:
        super().__init__()
        self.encoder = encoder
        self.halves = precision.half and encoder.states_follow_weights

    def forward(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        own = [s.half() for s in states] if self.halves else list(states)
        pooled, following = self.encoder.step(frames, own)
        kept = zip(self.encoder.states, following, strict=True)
        outputs = [pooled, *(value for state, value in kept if not state.pools)]
        return tuple(_as_float(x) for x in outputs)


class _Summary(nn.Module):
    def __init__(self, summary: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.summary = summary
        self.halves = precision.half

    def forward(self, pooled: Tensor) -> Tensor:
        return _as_float(self.summary(pooled.half() if self.halves else pooled))


class _Head(nn.Module):
    def __init__(self, head: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.head = head
        self.halves = precision.half

    def forward(self, *summaries: Tensor) -> Tensor:
        return _as_float(self.head([s.half() if self.halves else s for s in summaries]))


def plan_latency(
    network: EmotionNetwork, pattern: Pattern, precision: Precision, recurrence: str
) -> Plan:
    """One utterance: (T, D) per present modality -> logits (C,)."""
    module = specialise(network, pattern, precision=precision, recurrence=recurrence)
    inputs = tuple(_frames(network, m, (f"T_{m}",)) for m in pattern)
    return Plan(
        module, inputs, (TensorSpec(name=LOGITS, dtype="float32", shape=_classes(network)),)
    )


def plan_throughput(
    network: EmotionNetwork, pattern: Pattern, precision: Precision, recurrence: str
) -> Plan:
    """A batch: (B, T, D) and lengths (B,) per present modality -> logits (B, C)."""
    module = specialise(network, pattern, precision=precision, recurrence=recurrence)
    frames = tuple(_frames(network, m, ("B", f"T_{m}")) for m in pattern)
    lengths = tuple(TensorSpec(name=f"{m}_lengths", dtype="int64", shape=("B",)) for m in pattern)
    return Plan(_Throughput(module), frames + lengths, (_logits(network),))


def plan_step(network: EmotionNetwork, modality: Modality, precision: Precision) -> Plan:
    """New frames (B, N, D) of streams and their states -> pooled (B, P) and the next states."""
    encoder = stream_encoder(network, modality, precision=precision)
    dim = network.config.features[modality].dim
    inputs = [TensorSpec(name="frames", dtype="float32", shape=("B", "N", dim))]
    outputs = [TensorSpec(name="pooled", dtype="float32", shape=("B", encoder.pooled_size))]
    states = []
    for state in encoder.states:
        free: tuple[int | str, ...] = state.size
        if state.initial_size is not None:
            free = ("S", *state.size[1:])
        inputs.append(TensorSpec(name=state.name, dtype="float32", shape=("B", *free)))
        output = "pooled" if state.pools else f"next_{state.name}"
        if not state.pools:
            outputs.append(TensorSpec(name=output, dtype="float32", shape=("B", *state.size)))
        first = state.initial_size or state.size
        states.append(
            StateSpec(
                name=state.name,
                output=output,
                initial=state.initial,
                initial_shape=("B", *first),
            )
        )
    return Plan(_Step(encoder, precision), tuple(inputs), tuple(outputs), tuple(states))


def plan_summary(network: EmotionNetwork, modality: Modality, precision: Precision) -> Plan:
    """What was pooled (B, P) -> the summary (B, S)."""
    summary = stream_summary(network, modality, precision=precision)
    size = network.encoder(modality).pooled_size
    given = TensorSpec(name="pooled", dtype="float32", shape=("B", size))
    said = TensorSpec(name="summary", dtype="float32", shape=("B", summary.size))
    return Plan(_Summary(summary, precision), (given,), (said,))


def plan_head(network: EmotionNetwork, pattern: Pattern, precision: Precision) -> Plan:
    """Summaries (B, S) of the present modalities -> logits (B, C)."""
    head = stream_head(network, pattern, precision=precision)
    shape = ("B", len(head.bias))
    inputs = tuple(TensorSpec(name=m.value, dtype="float32", shape=shape) for m in pattern)
    return Plan(_Head(head, precision), inputs, (_logits(network),))


def _example(spec: TensorSpec) -> Tensor:
    sizes = [_SIZES.get(n, _FRAMES) if isinstance(n, str) else n for n in spec.shape]
    if spec.dtype == "int64":
        return torch.full(sizes, _FRAMES, dtype=torch.int64)
    return torch.zeros(sizes)


def _frames(network: EmotionNetwork, modality: Modality, axes: tuple[str, ...]) -> TensorSpec:
    dim = network.config.features[modality].dim
    return TensorSpec(name=modality.value, dtype="float32", shape=(*axes, dim))


def _classes(network: EmotionNetwork) -> tuple[int]:
    return (len(network.config.labels),)


def _logits(network: EmotionNetwork) -> TensorSpec:
    return TensorSpec(name=LOGITS, dtype="float32", shape=("B", *_classes(network)))


def _as_float(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.float16 else x
