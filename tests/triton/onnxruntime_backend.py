"""A backend of Triton's in Python that stands in for its own `onnxruntime`, for CPUs without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Runs model.onnx; requests that Triton batched are joined, as its own backend does."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph."""
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.batched = json.loads(args["model_config"])["max_batch_size"] > 0
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        self.names = [one.name for one in self.session.get_inputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer to each request."""
        given = [
            {n: pb_utils.get_input_tensor_by_name(one, n).as_numpy() for n in self.names}
            for one in requests
        ]
        if not self.batched:
            return [_response(self.session.run(["logits"], one)[0]) for one in given]
        sizes = [len(next(iter(one.values()))) for one in given]
        joined = {n: np.concatenate([one[n] for one in given]) for n in self.names}
        (logits,) = self.session.run(["logits"], joined)
        ends = np.cumsum(sizes)
        return [_response(logits[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def _response(logits: Any) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor("logits", logits)])
