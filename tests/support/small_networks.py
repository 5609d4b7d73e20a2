"""Tiny networks of every kind whose answers spread, and their graphs. Needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch

from ifmmin.export.graph import Plan, plan_head, plan_step, plan_summary, to_bytes, to_model
from ifmmin.export.quantize.dynamic import DynamicQuantiser
from ifmmin.export.quantize.groups import STATIC, operator_groups
from ifmmin.export.quantize.static import StaticQuantiser
from ifmmin.export.specialise.encoder import Precision
from ifmmin.export.verify.probes import Probes, StreamProbes, run_head, run_summary
from ifmmin.runtime.backends import Runner
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.modality import MODALITIES, Modality, Pattern, patterns_of
from ifmmin.runtime.validate import pad_batch
from ifmmin.train.config import (
    Architecture,
    FeatureConfig,
    ModelConfig,
    StatisticsConfig,
    TransformConfig,
)
from ifmmin.train.data.corpus import Utterance, collate
from ifmmin.train.model.encoders import StatisticsEncoder
from ifmmin.train.model.models import LinearNetwork, build_network
from ifmmin.train.model.network import EmotionNetwork

# The tests run beside each other; threads that wait for one another's cores make all of them crawl.
torch.set_num_threads(1)

DIMS = {"a": 5, "v": 7, "t": 11}

_STATISTICS = {
    Modality.A: StatisticsConfig(
        functionals=("mean", "std", "max", "min", "weighted_mean", "weighted_std"), dropout=0.2
    ),
    Modality.V: StatisticsConfig(functionals=("mean", "delta", "crest")),
    Modality.T: StatisticsConfig(functionals=("std", "mean"), limit=1.5),
}
_TRANSFORMS = {
    Modality.V: TransformConfig(powers=(0.25, 1.0)),
    Modality.T: TransformConfig(unit=True),
}
_INVARIANT = ("invariant_layers", "invariant_activation", "invariant_end_active")
KINDS: dict[str, dict[str, Any]] = {
    "if-mmin": {},
    "parallel": {"imagination": "parallel"},
    "fusion": {"model": "fusion"},
    "augmented": {"model": "augmented"},
    "mmin": {"model": "mmin"},
    "sigmoid-s": dict(zip(_INVARIANT, (4, "sigmoid", False), strict=True)),
    "short-s": {"model": "fusion", "invariant_layers": 1, "invariant_dropout": True},
    "last": {"pooling": "last"},
    "attention": {"pooling": "attention"},
    "sum": {"pooling": "sum", "model": "fusion"},
    "transforms": {"transforms": _TRANSFORMS, "model": "augmented"},
    "statistics": {
        "statistics": _STATISTICS, "transforms": _TRANSFORMS, "invariant_activation": "tanh",
        "guide_dropout": 0.3,
    },
    "linear": {"statistics": _STATISTICS, "model": "linear"},
    "two": {},
    "two-statistics": {"statistics": _STATISTICS, "transforms": _TRANSFORMS},
    "two-residual": {"model": "mmin"},
    "two-linear": {"statistics": _STATISTICS, "model": "linear"},
    "one": {"imagination": "parallel"},
}  # fmt: skip
"""Every way to make a network, by what differs from the paper's."""
_TAKES = {"two": "at", "two-statistics": "vt", "two-residual": "av", "two-linear": "at", "one": "a"}
"""Modalities of the kinds that have not all."""
SOME_PATTERNS = tuple(map(Pattern.parse, ("v", "a_t", "a_v_t")))
"""Of which one or another has every modality, none, some and all of what is missing."""


def patterns(kind: str) -> tuple[Pattern, ...]:
    """All patterns of a kind of network."""
    return patterns_of([Modality(letter) for letter in _TAKES.get(kind, "avt")])


CASES = [
    (kind, pattern) for kind in KINDS if "linear" not in kind
    for pattern in (
        patterns(kind) if kind in ("if-mmin", "statistics", *_TAKES) else SOME_PATTERNS
    )
]  # fmt: skip
"""What is exported, kinds with patterns: the two that recipes train, and those that have not every
modality, with all of theirs."""


def small_network(kind: str = "if-mmin", seed: int = 0) -> EmotionNetwork:
    """A network in evaluation mode, the same for the same arguments."""
    torch.manual_seed(seed)
    features = {
        m: FeatureConfig(
            dim=DIMS[m.value], missing_length=9, frame_rate=10.0,
            weight_column=1 if m is Modality.A else None,
        )
        for m in patterns(kind)[-1]
    }  # fmt: skip
    architecture = Architecture(
        embedding=8, text_channels=6, blocks=3, block_sizes=(10, 9, 4), classifier_sizes=(12, 8),
        **KINDS[kind],
    )  # fmt: skip
    config = ModelConfig(
        labels=("angry", "happy", "neutral", "sad"),
        features=features,
        architecture=architecture.fitted(features),
    )
    network = build_network(config)
    with torch.no_grad():
        _scatter(network)
        rng = np.random.default_rng(0)
        some = collate([small_utterance(rng, {"a": 9, "v": 8, "t": 7}) for _ in range(16)], config)
        # Logits around zero that vary by class and input, so that every class wins somewhere.
        logits = network.eval()(some).logits
        weight, bias = _last_layer(network)
        bias.sub_(logits.mean(dim=0))
        weight.mul_(3.0 / logits.std(dim=0).mean())
        bias.mul_(3.0 / logits.std(dim=0).mean())
        network.temperatures.uniform_(0.7, 1.5)
    return network


def _scatter(network: EmotionNetwork) -> None:
    """Default weights make every comparison empty: whole modalities hardly move the answer."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0.0, 0.3)
        elif name == "encoders.t.output.weight":
            parameter.mul_(0.2)  # no modality may drown the others
        elif "rnn" in name:
            parameter.mul_(2.0)
        elif name == "classifier.linears.2.weight" or name == "weight":
            parameter.normal_(0.0, 0.3)
        else:
            parameter.mul_(1.1)
    for modality in network.modalities:
        normaliser = network.normaliser(modality)
        normaliser.mean.normal_(0.0, 2.0)
        normaliser.std.uniform_(0.5, 3.0)
        encoder = network.encoder(modality)
        if isinstance(encoder, StatisticsEncoder):
            encoder.offset.uniform_(0.1, 1.0)
            encoder.scale.uniform_(0.5, 2.0)
            encoder.weigh_as(normaliser)


def _last_layer(network: EmotionNetwork) -> tuple[torch.Tensor, torch.Tensor]:
    prefix = "" if isinstance(network, LinearNetwork) else "classifier.linears.2."
    return network.get_parameter(f"{prefix}weight"), network.get_parameter(f"{prefix}bias")


def small_utterance(rng: np.random.Generator, frames: dict[str, int], label: int = 0) -> Utterance:
    """Noise of so many frames by modality; one of 0 is missing."""
    features: dict[object, np.ndarray] = {}
    for modality in MODALITIES:
        if frames.get(modality.value, 0):
            shape = (frames[modality.value], DIMS[modality.value])
            features[modality] = (2 * rng.standard_normal(shape)).astype(np.float32)
    return Utterance("made", features, label)  # type: ignore[arg-type]


def logits_alone(network: EmotionNetwork, utterance: Utterance) -> np.ndarray:
    """Calibrated logits (C,) of one utterance in a batch of its own, in the network's precision."""
    with torch.no_grad():
        batch = collate([utterance], network.config).to(next(network.parameters()).dtype)
        return np.asarray(network.answer(batch)[0].numpy())


@cache
def probes_of(kind: str) -> Probes:
    """The probes of a kind of network."""
    return Probes(small_network(kind))


def load(plan: Plan) -> Runner:
    """A runner of a plan's graph."""
    return OnnxRuntimeCpu().load(to_bytes(to_model(plan), {}))


def stream_logits(
    network: EmotionNetwork, probes: StreamProbes, pattern: Pattern, precision: Precision
) -> Any:
    """Logits (N, C) after every chunk, by step, summary and head graphs."""
    summaries = {m: _summaries(network, probes, m, precision) for m in pattern}
    return run_head(load(plan_head(network, pattern, precision)), pattern, summaries)


def _summaries(
    network: EmotionNetwork, probes: StreamProbes, modality: Modality, precision: Precision
) -> Any:
    plan = plan_step(network, modality, precision)
    summary = load(plan_summary(network, modality, precision))
    return run_summary(summary, probes.pooled(modality, plan, load(plan)))


def load_model(model: onnx.ModelProto, *, literal: bool = False) -> Runner:
    """A runner of a graph as it is."""
    return OnnxRuntimeCpu().load(model.SerializeToString(), literal=literal)


def static_model(kind: str, model: onnx.ModelProto, shape: str, pattern: Pattern) -> Any:
    """A graph of a kind of network in 8 bits as TensorRT takes them."""
    inputs = [{m: x[m] for m in pattern} for x in probes_of(kind).ordinary_inputs()[:40]]
    feeds = [
        {m.value: x for m, x in f.items()} if shape == "latency" else pad_batch([f]) for f in inputs
    ]
    return StaticQuantiser(model, feeds, load_model)(list(operator_groups(model, STATIC)))


def dynamic_model(model: onnx.ModelProto, feeds: Sequence[Any] = ()) -> Any:
    """A graph in 8 bits as ONNX Runtime takes them."""
    quantise = DynamicQuantiser(model, list(feeds), load_model)
    return quantise(list(quantise.groups))
