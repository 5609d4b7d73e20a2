"""pytest-benchmark suite: what the predictor adds to a bare session, in a call and at the start."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from ifmmin.benchmarks.cold_start import starts
from ifmmin.export.export import Request, export_bundle
from ifmmin.runtime.bundle import Bundle
from ifmmin.runtime.modality import MODALITIES, Pattern
from ifmmin.runtime.predictor import Predictor
from ifmmin.train.checkpoint import save_checkpoint
from ifmmin.train.config import FeatureConfig, ModelConfig
from ifmmin.train.models import build_network

DIMS = dict(zip(MODALITIES, (130, 342, 1024), strict=True))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    features = {m: FeatureConfig(dim=dim) for m, dim in DIMS.items()}
    network = build_network(ModelConfig(labels=("a", "h", "n", "s"), features=features)).eval()
    folder = tmp_path_factory.mktemp("runtime")
    save_checkpoint(folder / "m.safetensors", network, {})
    request = Request(shapes=("latency",), losses={"logits": 1e-3})
    pattern = Pattern.parse("a")
    export_bundle(folder / "m.safetensors", [pattern], folder / "bundle", request=request)
    return folder / "bundle"


@pytest.mark.parametrize("contender", ["bare session", "predictor"])
def test_a_call(benchmark: Any, bundle: Path, contender: str) -> None:
    """The predictor may add 15 us: validation, softmax, the answer."""
    benchmark.group = "one call of pattern a, 50 frames, one thread"
    given = {"a": np.random.default_rng(0).standard_normal((50, 130)).astype(np.float32)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    opened = Bundle(bundle)
    content = opened.graph(opened.entry(Pattern.parse("a")))
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    predictor = Predictor(bundle, backend="onnxruntime-cpu")
    bare = np.asarray(session.run(None, given)[0])
    assert np.allclose(bare, predictor.predict(given).logits, atol=1e-4)
    benchmark(
        partial(session.run, None, given)
        if contender == "bare session"
        else partial(predictor.predict, given)
    )


@pytest.mark.parametrize("contender", ["bare session", "predictor"])
def test_a_cold_start(benchmark: Any, bundle: Path, contender: str) -> None:
    """A fresh process up to its first answer; the predictor may take 1.25 times as long."""
    benchmark.group = "a fresh process up to its first answer, pattern a"
    call = starts(bundle, DIMS[MODALITIES[0]])[contender]
    benchmark.pedantic(call, rounds=15, warmup_rounds=2)
