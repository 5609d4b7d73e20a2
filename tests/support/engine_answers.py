"""What a small engine has to answer, by ONNX Runtime itself."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from small_engines import GRAPHS

from ifmmin.runtime.backends.tensorrt_engine import EngineRunner


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
