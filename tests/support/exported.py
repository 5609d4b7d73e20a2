"""Tiny networks of every kind with their probes, made once for all tests that ask for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from ifmmin.export.drive import StreamProbes, run_head, run_summary
from ifmmin.export.graph import to_bytes, to_model
from ifmmin.export.precision import Precision
from ifmmin.export.probes import Probes
from ifmmin.export.shapes import Plan, plan_head, plan_step, plan_summary
from ifmmin.runtime.backends import Runner
from ifmmin.runtime.backends.onnxruntime import OnnxRuntimeCpu
from ifmmin.runtime.modality import Modality, Pattern
from ifmmin.train.network import EmotionNetwork

MakeNetwork = Callable[..., EmotionNetwork]


@cache
def probes_of(make_network: MakeNetwork, kind: str) -> Probes:
    """The probes of a kind of network; `make_network` gives the same one at every call."""
    return Probes(make_network(kind))


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
