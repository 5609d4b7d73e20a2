"""The small graphs with their profiles, how a test builds them, and what they have to answer."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from small_graphs import (
    MODALITIES,
    TEXT_STATES,
    entry_of,
    lstm_graph,
    masked_scan_graph,
    quantised_graph,
    scan_graph,
    step_graph,
    text_graph,
    text_step_graph,
)

from ifmmin.runtime.backends.profile import profile_of
from ifmmin.runtime.backends.tensorrt_build import BuiltEngine, build_engine
from ifmmin.runtime.backends.tensorrt_engine import EngineRunner
from ifmmin.runtime.bundle import ProfileSpec
from ifmmin.runtime.errors import IfmminError

Profile = dict[str, ProfileSpec]
TARGETS = ("SM86", "SM89", "SM120")


def described(content: bytes, shape: str, subject: str, states: Any = ()) -> tuple[bytes, Profile]:
    return content, profile_of(entry_of(content, shape, subject, states), MODALITIES)


GRAPHS = {
    "lstm": described(lstm_graph(), "latency", "a"),
    "lstm fp16": described(lstm_graph("float16"), "latency", "a"),
    "scan": described(scan_graph(), "latency", "a"),
    "scan fp16": described(scan_graph("float16"), "latency", "a"),
    "masked": described(masked_scan_graph(), "throughput", "a"),
    "masked fp16": described(masked_scan_graph("float16"), "throughput", "a"),
    "text": described(text_graph(), "latency", "t"),
    "text fp16": described(text_graph("float16"), "latency", "t"),
    "quantised": described(quantised_graph(), "head", "a"),
    "step": described(step_graph(), "step", "a"),
    "text step": described(text_step_graph(), "step", "t", TEXT_STATES),
}


def build(name: str, **options: Any) -> BuiltEngine:
    graph, profile = GRAPHS[name]
    return build_engine(graph, profile, **{"flavour": "tensorrt-rtx", **options})


def refusal(kind: type[IfmminError], graph: bytes, profile: Profile, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        build_engine(graph, profile, **{"flavour": "tensorrt-rtx", **options})
    message = str(caught.value)
    assert "\n" not in message
    assert "CUDA driver" not in message, "noise of a machine without a GPU"
    return message


def frames(length: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {"a": rng.standard_normal((length, 5), dtype=np.float32)}


@cache
def session(name: str) -> Any:
    return onnxruntime.InferenceSession(GRAPHS[name][0])


def require_right(run: EngineRunner, inputs: dict[str, NDArray[Any]], name: str = "lstm") -> None:
    found, wanted = run(inputs), session(name).run(None, inputs)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
